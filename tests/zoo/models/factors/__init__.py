"""Tests of factor models."""
