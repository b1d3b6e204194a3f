"""Regressions of counts, and of rows in groups."""
