"""Least squares between the dense and the pruned model: errors of removing channels, and refitted weights."""
