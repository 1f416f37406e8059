"""The edges of example graphs."""
