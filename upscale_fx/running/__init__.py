"""Running compiled models: real-time serving with stored hidden features."""
