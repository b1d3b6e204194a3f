"""Samplers: Hamiltonian Monte Carlo, annealed importance sampling, quasi-random noise."""
