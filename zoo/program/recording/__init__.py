"""Recorded runs of pure programs, and the proof that a program is pure."""
