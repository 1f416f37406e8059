"""Channel rules: positions of values, relations between them, and a rule from each operation to its relation."""
