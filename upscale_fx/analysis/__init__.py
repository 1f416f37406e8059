"""Analyses of a graph: which channels are live, zero or constant, where they come from, and the cost of calls."""
