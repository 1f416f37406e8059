"""Budgets: how much each consumer loses, and where consumers share channels, for what a model may cost."""
