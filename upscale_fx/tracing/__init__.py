"""Turn a model into a graph: describe its inputs, trace both modes, compare the graph with the model."""
