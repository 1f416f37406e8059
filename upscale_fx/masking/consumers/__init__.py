"""The consumers of a graph: every contraction over channels, and which of their channels may go together."""
