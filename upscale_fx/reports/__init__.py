"""Reports for people: diffs, pruning reports, groups, costs, tables and pictures."""
