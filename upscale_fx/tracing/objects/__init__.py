"""Objects among the arguments of a model: taken apart, reduced to what is read, or guessed from what is read."""
