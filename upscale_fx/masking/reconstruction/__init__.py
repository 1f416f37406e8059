"""Least squares between a dense and a pruned model: which channels are missed least, and what makes up for them."""
