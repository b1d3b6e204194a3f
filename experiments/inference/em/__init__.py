"""Expectation–maximisation."""
