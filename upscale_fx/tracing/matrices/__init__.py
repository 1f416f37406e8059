"""Sparse matrices in a trace: each is its edges, and calls on it are recorded as calls on edges."""
