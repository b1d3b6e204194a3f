"""Models of ordered observations: hidden Markov models, state-space models and Gaussian processes."""
