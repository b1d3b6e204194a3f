"""Failures of programs: which site is at fault, and draws that can not be evaluated."""
