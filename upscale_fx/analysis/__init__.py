"""What is known of a graph: what reads what, what is zero or constant, where channels come from, what calls cost."""
