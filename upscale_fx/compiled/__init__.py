"""The compiled model, a graph of its own kind, and what it is called with."""
