"""The compiled model (an FX graph with a record), its inputs, its batches and its structure half."""
