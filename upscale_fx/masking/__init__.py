"""Masking: finds the consumers, chooses the channels that each stops reading, and refits the kept weights."""
