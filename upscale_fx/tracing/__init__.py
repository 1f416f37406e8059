"""A model becomes a graph: its inputs are described, both modes are traced, the graph is compared with the model."""
