"""What each consumer stops reading: who the consumers are, which channels matter least, and what makes up for them."""
