"""What is measured: a file of each kind of work."""
