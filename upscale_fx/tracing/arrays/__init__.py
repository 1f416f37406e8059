"""NumPy's numbers and arrays in a trace: calls with them are recorded with Python's numbers and constant tensors."""
