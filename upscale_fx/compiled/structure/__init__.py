"""What depends on the graph alone, computed once: ``prepare`` and the handle it returns."""
