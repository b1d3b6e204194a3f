"""The theory as experiments: each study states a claim, measures it, and draws it. ``zoo study`` runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.studies.registry import STUDIES
from zoo.registry import lazy

if TYPE_CHECKING:
    from experiments.studies.study import Check, Findings, claim, run

_LAZY = {
    "Check": "experiments.studies.study:Check",
    "Findings": "experiments.studies.study:Findings",
    "claim": "experiments.studies.study:claim",
    "run": "experiments.studies.study:run",
}

__all__ = ["STUDIES", "Check", "Findings", "claim", "run"]


__getattr__ = lazy(__name__, _LAZY)
