"""What every operation does to channels: positions, the relations between them, and a rule for each operation."""
