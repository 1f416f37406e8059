"""Which numbers of rows a model takes."""
