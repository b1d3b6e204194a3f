"""The ELBO on noise that is held."""
