"""Where a graph can be cut, so that single nodes are answered from stored rows: kinds, stages, what is stored."""
