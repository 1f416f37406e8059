"""Layers of a compiled graph: functions that read one module's own tensors run as calls of that module."""
