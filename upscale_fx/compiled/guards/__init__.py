"""What keeps a compiled graph honest in other hands: its state, and changes of its nodes by hand."""
