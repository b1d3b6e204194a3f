"""Brackets of log p(x | θ): a stochastic lower bound and a stochastic upper one."""
