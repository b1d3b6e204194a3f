"""Facts that are proved or declared of a density: linear predictors, quadratic log-densities."""
