"""Fits that are done, kept on disk and put back: in another process, the same model, guide and history."""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import torch

from experiments.em import Iteration
from experiments.engine import States, moved
from experiments.files import digest, whole
from experiments.journal import Journal, State
from guides.guide import BaseGuide
from zoo.data import Data, tensors
from zoo.errors import ZooError
from zoo.model import Model

if TYPE_CHECKING:
    from experiments.fitting import Fit

_PLAIN = ("method", "steps", "seconds", "elbo", "converged", "stopped", "units")


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
        "iterations": [astuple(row) for row in done.iterations]}))


def restore(journal: Journal, model: Model, guide: BaseGuide, train_model: bool) -> Fit | None:
    """Put a finished fit's parameters into ``model`` and ``guide``, and return it; ``None`` if it was not finished.

    Raises:
        ZooError: parameters of other names or shapes, or a fit that is not done in a sealed journal.
    """
    from experiments.fitting import Fit

    state = journal.end()
    if state is None and journal.sealed:
        raise ZooError(f"expected a finished fit in {journal.path}; got none; 'zoo resume' goes on with the run")
    if state is None:
        return None
    load_into(model, state, "model", journal)
    load_into(guide, state, "guide", journal)
    guide.eval()
    model.eval()
    states = None
    if state.values["best_step"] is not None:
        best, last = (tuple(state.numbered(name)) for name in ("best", "last"))
        states = States(tuple(moved(model, guide, train_model)), best, last, state.values["best_step"])
    history = tuple((int(step), elbo, seconds) for step, elbo, seconds in state.tensors["history"].tolist())
    return Fit(
        model, guide, **{name: state.values[name] for name in _PLAIN}, history=history,
        iterations=tuple(Iteration(*row) for row in state.values["iterations"]), states=states)


def load_into(module: Model | BaseGuide, state: State, prefix: str, journal: Journal) -> None:
    """Put the tensors under ``prefix`` into ``module``.

    Raises:
        ZooError: other names or shapes than the module's.
    """
    try:
        module.load_state_dict(state.part(prefix))
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise ZooError(f"expected the {prefix} that {journal.path} was written for; got another: {text}") from None


def check_same(journal: Journal, model: Model, guide: BaseGuide, x: Data, **how: Any) -> None:
    """Write down which fit a journal is of, or raise a :class:`ZooError` if it is of another one."""
    training = {name: repr(value) for name, value in how.pop("training").items() if name != "view" and value is not None}
    now = {"model": repr(model), "guide": guide.text, "data": data_digest(x), **how, **training}
    path = journal.path / "fit.json"
    try:
        before = json.loads(path.read_bytes())
    except FileNotFoundError:
        before = None
    except (OSError, ValueError, RecursionError):
        raise ZooError(f"expected {path} to say which fit it is; got a file that can't be read; remove {path.parent}") from None
    if not isinstance(before, dict):
        journal.make()
        whole(path, json.dumps(now, indent=1, ensure_ascii=False))
        return
    for name in {**now, **before}:
        if before.get(name) != now.get(name):
            raise ZooError(
                f"expected a journal of the same fit in {journal.path}; got one with {name} {before.get(name)!r}, not "
                f"{now.get(name)!r}; choose another directory, or remove it")


def data_digest(x: Data) -> str:
    """Return the SHA-256 of data: names, types, shapes and numbers."""
    parts = []
    for name, value in tensors(x).items():
        plain = value.detach().cpu().contiguous()
        parts.append(f"{name} {plain.dtype} {tuple(plain.shape)} {digest(plain.numpy().tobytes())}")
    return digest("\n".join(parts).encode())

