"""The consumers of a graph: every contraction over channels, and which channels are removed together."""
