"""Estimators of log p(x | θ), from the most to the least trusted, and their results."""
