"""Tests of models with networks."""
