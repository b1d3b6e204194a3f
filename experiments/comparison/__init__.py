"""Comparison of guides: the plan of the fits, the table, and the split of a gap."""
