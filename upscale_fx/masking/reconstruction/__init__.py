"""Least squares between a dense and a pruned model: the error of removing channels, and the refit of weights."""
