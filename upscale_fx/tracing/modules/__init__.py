"""What the modules of a model are besides their operations: modes, hooks, parts, and the state that they keep."""
