"""Samplers: Hamiltonian Monte Carlo, annealed importance sampling, draws of the posterior, quasi-random noise."""
