"""Runs that the tests of durability do, and what is compared of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import experiments
from experiments.fits.journal import Journal, read, slug
from experiments.fits.metrics import read_metrics
from experiments.runs.job import prepare
from experiments.runs.run import RunOptions
from experiments.runs.spec import Spec, complete
from zoo.errors import Interrupted

SPECS: dict[str, dict[str, Any]] = {
    "svi": {"command": "fit", "model": "vae", "data": "digits", "guides": ("mean_field:encoder",), "steps": 60,
            "options": {"latent": 4, "hidden": (40,)}, "validation": 0.1, "warm_up": 5, "clip": 5.0, "draws": 8},
    "em": {"command": "fit", "model": "factor_analysis", "data": "wine", "guides": ("exact",), "method": "em", "steps": 60,
           "standardise": True, "options": {"latent": 3}, "draws": 16},
    "fixed_draws": {"command": "fit", "model": "logistic_regression", "data": "breast_cancer", "guides": ("mean_field",),
                    "draws": 64},
}


def spec(method: str) -> Spec:
    return complete(**SPECS[method])


def quiet(**options: Any) -> RunOptions:
    return RunOptions(progress=False, report=False, **options)


def bits(path: Path, fit: str = "seed 0") -> tuple[Any, ...]:
    """Return all that a finished run has fitted, without its clock."""
    state = read(path / "checkpoint" / slug(fit) / "end.json")
    tensors = {name: value.numpy().tobytes() for name, value in state.tensors.items() if name != "history"}
    values = {name: value for name, value in state.values.items() if name != "seconds"}
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(path / "metrics.jsonl")]
    return tensors, values, state.tensors["history"][:, :2].tolist(), rows


def numbers(path: Path) -> Any:
    """Return a run's table, without its clock."""
    table = json.loads((path / "comparison.json").read_text())
    for part in (table["theta"], *table["guides"]):
        if part is not None:
            part.pop("seconds")
    return table


def gmm(**given: Any) -> Spec:
    return complete(model="gmm", guides=("exact",), **given)


class At(experiments.Callback):
    """Does something after a step of a fit."""

    def __init__(self, name: str, step: int, act: Callable[[], object]):
        self.at, self.act = (name, step), act

    def on_step(self, now: experiments.Moment) -> None:
        if (now.name, now.step) == self.at:
            self.act()


def interrupted(path: Path, steps: int = 5) -> None:
    """Leave an EM run behind that was stopped after ``steps``, with two checkpoints."""
    journal = Journal(path / "checkpoint", 0.0)

    class Ask(experiments.Callback):
        def on_step(self, now: experiments.Moment) -> None:
            if now.step == steps:
                journal.stop.signal = signal.SIGINT

    path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.fits.journal.SHARE", 1e9)
        with pytest.raises(Interrupted):
            prepare(spec("em")).fitted(journal, [Ask()])
