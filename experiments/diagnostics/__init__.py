"""What a fitted guide is worth: ELBO, gap, k̂, the posterior tree."""
