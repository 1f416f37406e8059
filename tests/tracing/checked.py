"""A check of values as an assertion. PYTEST_DONT_REWRITE: it is what Python makes of it."""

import torch


def checked(h):
    """A value that must be a number."""
    assert not torch.isnan(h).any()
    return h
