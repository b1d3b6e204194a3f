"""Deterministic variational inference: the ELBO on fixed draws of the noise."""
