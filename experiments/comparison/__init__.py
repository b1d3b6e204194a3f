"""Comparing guides: the plan of the fits, the table, the split of a gap."""
