"""What keeps a compiled graph honest in other hands: its state, changes of its nodes by hand, bugs with a name."""
