"""The structure half of a compiled model, which depends on the input graph alone; ``prepare`` computes it once."""
