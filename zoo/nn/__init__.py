"""Networks, flows, priors and likelihoods."""
