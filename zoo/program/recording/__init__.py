"""Runs of pure programs, recorded and repeated; what makes a program pure."""
