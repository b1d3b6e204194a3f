"""Which Python functions are pure, proved by reading their code."""

from zoo.purity.proof import Purity, purity

__all__ = ["Purity", "purity"]
