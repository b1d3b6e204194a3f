"""Which Python functions are pure, proved by reading their code."""

from zoo.program.recording.purity.proof import Purity, purity

__all__ = ["Purity", "purity"]
