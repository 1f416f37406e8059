"""The calls put together: prune once, in steps, to a target, at many amounts."""
