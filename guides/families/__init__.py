"""Families of distributions, without networks: φ, and what q is made of it."""
