"""Runs that survive: specs, grids, records, sweeps."""
