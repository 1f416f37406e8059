"""Pruning: once, in steps, to a target, and at several amounts."""
