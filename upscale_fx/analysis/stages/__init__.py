"""Where a graph can be cut, so that single nodes are answered from stored rows: kinds of rows, stages, what is stored."""
