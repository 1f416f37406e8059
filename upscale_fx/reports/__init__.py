"""What people read: diffs, reports, groups, costs, tables and pictures."""
