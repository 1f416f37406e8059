"""The changing graph of a server: edges that are added, found and removed in batches, in order of insertion."""
