"""The functions that measure: one file for each kind of work."""
