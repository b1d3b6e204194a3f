"""Finished fits on disk: another process restores the same model, guide and history from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from experiments.fits.callbacks import rows_of
from experiments.fits.journal import Journal
from experiments.fits.result import Iteration, States
from experiments.fits.state import State, alike, amount, check_finite, fitting
from experiments.inference.engine import state_tensors
from experiments.inference.method import Problem
from experiments.inference.options import Options
from experiments.runtime.files import digest, whole
from guides.guide import BaseGuide
from zoo.data import Data, tensors
from zoo.errors import ZooError
from zoo.model import Model

if TYPE_CHECKING:
    from experiments.fits.result import Fit

#: What else of a fit is kept, and as what.
_PLAIN: dict[str, Any] = {
    "method": str, "steps": int, "seconds": amount, "bound": float, "converged": bool, "stopped": str, "units": int,
    "objective": str, "evaluations": amount}


def keep(journal: Journal, done: Fit) -> None:
    """Write a finished fit to its journal, in place of its checkpoints.

    Raises:
        ZooError: if the disk is full.
    """
    parts = {**State.prefixed("model", done.model.state_dict()), **State.prefixed("guide", done.guide.state_dict())}
    best_step = None
    if done.states is not None:
        best_step = done.states.best_step
        for name in ("best", "last"):
            parts |= {f"{name}.{i}": value for i, value in enumerate(getattr(done.states, name))}
    parts["history"] = torch.tensor(done.history, dtype=torch.float64).reshape(-1, 3)
    journal.finish(State(parts, {
        **{name: getattr(done, name) for name in _PLAIN}, "best_step": best_step, "guide": done.guide.text,
        "iterations": [astuple(row) for row in done.iterations], "remarks": [*done.remarks]}))


def restore(journal: Journal, model: Model, guide: BaseGuide, train_model: bool) -> Fit | None:
    """Put a finished fit's parameters into ``model`` and ``guide``, and return it; ``None`` if it was not finished.

    Raises:
        ZooError: parameters of other names or shapes, or a fit that is not done in a sealed journal.
    """
    from experiments.fits.result import Fit

    state = journal.end()
    if state is None and journal.sealed:
        raise ZooError(f"expected a finished fit in {journal.path}; got none; 'zoo resume' goes on with the run")
    if state is None:
        return None
    with fitting(journal.path), as_before_if_refused(model, guide):
        model.load_state_dict(state.part("model"))
        guide.load_state_dict(state.part("guide"))
        check_finite([*model.parameters(), *guide.parameters()])
        states = _states(state, model, guide, train_model)
        plain = _plain(state)
        iterations = tuple(Iteration.of(row) for row in state.values["iterations"])
        done = Fit(model, guide, **plain, history=tuple(rows_of(state)), iterations=iterations, states=states,
            remarks=tuple(map(str, state.values["remarks"])))
    guide.eval()
    model.eval()
    return done


@contextmanager
def as_before_if_refused(*modules: nn.Module) -> Iterator[None]:
    """Put the parameters of ``modules`` back where the block fails: a model may be a user's own, and in use."""
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    try:
        yield
    except BaseException:
        for module, state in zip(modules, before, strict=True):
            module.load_state_dict(state)
        raise


def _states(state: State, model: Model, guide: BaseGuide, train_model: bool) -> States | None:
    """Return the best and the last parameters of a fit; ``None`` of one that kept none."""
    if state.values["best_step"] is None:
        return None
    tensors = tuple(state_tensors(model, guide, train_model))
    best, last = (tuple(alike(state.numbered(name), tensors)) for name in ("best", "last"))
    return States(tensors, best, last, int(state.values["best_step"]))


def _plain(state: State) -> dict[str, Any]:
    """Return the numbers and the words of a fit, each as its type: a fit may have no bound."""
    values = {"evaluations": 0.0, **state.values}  # fits of earlier versions have not counted them
    return {
        name: None if values[name] is None and name == "bound" else kind(values[name]) for name, kind in _PLAIN.items()}


def check_same(journal: Journal, problem: Problem, method: str, options: Options, given: Mapping[str, Any]) -> None:
    """Write down which fit a journal is of, or raise a :class:`ZooError` if it is of another one; a sealed one is only read.

    Of the options those that were ``given`` are written, a view left out, which can't be.
    """
    now = _identity(problem, method, options, given)
    text = json.dumps(now, indent=1, ensure_ascii=False)
    path = journal.remember("fit.json", lambda: whole(path, text))
    before = _written(path)
    if not isinstance(before, dict) and journal.sealed:
        raise ZooError(f"expected {path} to say which fit it is; got none; 'zoo resume' goes on with the run")
    if not isinstance(before, dict):
        journal.make()
        whole(path, text)  # one that says nothing is there, too
        return
    for name in {**now, **before}:
        if before.get(name) != now.get(name):
            raise ZooError(
                f"expected a journal of the same fit in {journal.path}; got one with {name} {before.get(name)!r}, not "
                f"{now.get(name)!r}; choose another directory, or remove it")


def _identity(problem: Problem, method: str, options: Options, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a fit from others."""
    plain = {"steps", "draws", "view"}
    return {
        "model": repr(problem.model), "guide": problem.guide.written or problem.guide.text,
        "data": data_digest(problem.x), "method": method,
        "steps": options.limit, "draws": given.get("draws"), "seed": problem.seed, "theta": problem.train_model,
        **{name: repr(value) for name, value in given.items() if name not in plain and value not in (None, False)}}


def _written(path: Path) -> Any:
    """Return what a journal says of its fit; ``None`` where it says nothing yet.

    Raises:
        ZooError: it can't be read.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise ZooError(f"expected {path} to say which fit it is; got a file that can't be read; remove {path.parent}") from None


def data_digest(x: Data) -> str:
    """Return the SHA-256 of data: names, types, shapes and numbers."""
    parts = []
    for name, value in tensors(x).items():
        plain = value.detach().cpu().contiguous()
        content = plain.numpy().reshape(-1).view(np.uint8).data  # no copy: the data may not fit in memory twice
        parts.append(f"{name} {plain.dtype} {tuple(plain.shape)} {digest(content)}")
    return digest("\n".join(parts).encode())

