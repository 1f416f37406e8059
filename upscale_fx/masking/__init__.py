"""What each consumer stops reading: consumers, their least important channels, and the refit of weights."""
