"""Benchmarks of whole commands in fresh processes."""
