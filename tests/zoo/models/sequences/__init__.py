"""Tests of models of ordered observations."""
