"""Exact answers for single nodes while the graph changes: hidden features are stored, and forgotten when stale."""
