"""Diagnostics of a fitted guide: ELBO, gap, k̂, the posterior tree."""
