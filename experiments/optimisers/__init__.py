"""Optimisers that no method owns: L-BFGS, Newton, Anderson."""
