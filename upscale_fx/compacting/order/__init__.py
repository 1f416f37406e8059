"""One order of channels for all of their readers, such that most read slices."""
