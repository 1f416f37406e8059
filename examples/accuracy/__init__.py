"""What pruning costs in accuracy: the measurements behind the tables that `examples/results.py` writes."""
