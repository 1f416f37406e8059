"""Budgets: how much each consumer loses, and where consumers share channels, for a limit on the cost."""
