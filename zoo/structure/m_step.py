"""Protocols of an M-step beside ``maximise``: a model that has their methods takes part."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from zoo.structure.quadratic import Moments


@runtime_checkable
class FromMoments(Protocol):
    """A ``quadratic`` model with discrete latents whose M-step needs the rows' moments alone."""

    def maximise_moments(self, moments: Moments) -> None:
        """Set θ to the maximiser of E_q[log p(x, z | θ)] from the rows' moments under each value of z."""


@runtime_checkable
class Bounded(Protocol):
    """A model whose M-step bounds θ, as by a floor under variances."""

    def confine(self) -> None:
        """Move θ to where the M-step could have put it: extrapolated steps may leave there."""
