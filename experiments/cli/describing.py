"""What ``zoo list MODEL`` shows: what a model is on data, its options, and the guides, methods and data that fit it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.listing import print_table
from experiments.comparison.terminal.console import console
from experiments.inference.registry import fitting_methods
from experiments.runtime.inert import inert
from guides.registry import DRAWN, FAMILIES, WHOLE
from guides.spec import BLOCKS, fitting_guides
from zoo.errors import ZooError
from zoo.registry import DATASETS, MODELS, ModelEntry, load, lookup

if TYPE_CHECKING:
    from zoo.data import Data
    from zoo.model import Model


def show_model(name: str, data: str | None, options: Mapping[str, Any], svg: Path | None) -> None:
    """Print what a model with ``options`` is on data, by default those it is shown on; write its drawing to the file ``svg``.

    Raises:
        ZooError: no such model, option or data, or a file that can't be written.
    """
    entry = _entry(name)
    if svg is not None and not svg.absolute().parent.is_dir():
        raise ZooError(f"expected a file in a directory that exists for --svg; got {svg}; make the directory first")
    import zoo
    from experiments.runs.job import prepare
    from experiments.runs.spec import complete

    job = prepare(complete(command="fit", model=name, data=data, options=dict(options)))
    found = zoo.describe(job.model, job.data.x)
    if svg is not None:
        _write(svg, found.svg() + "\n")
    notes = "\n".join(found.notes())
    _say(f"{found.title}\n\n{_documentation(entry)}\n\non {inert(job.data.name)}:\n")
    _say(f"{found.table()}\n\n{notes}\n\n{found.drawing()}\n")
    _print_options(name)
    print_table("guides that fit", ("methods, the default first", "guides"), [
        (methods, " ".join(guides)) for methods, guides in _by_methods(job.model, job.data.x).items()])
    if job.model.facts(job.data.x).local:
        _say(f"guides of two blocks, shared latents first: {BLOCKS}, e.g. full_rank+mean_field:encoder(shared=True)")
    _say(f"data that fits: {' '.join(d for d, e in DATASETS.items() if entry.kind(options) in e.gives)}")


def _say(text: str) -> None:
    console().print(text, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    from experiments.reporting.output import remark
    from experiments.runtime.files import whole

    whole(path, text)
    remark(f"wrote {path}")


def _entry(name: str) -> ModelEntry:
    if name not in MODELS and (name in DATASETS or name in {**FAMILIES, **WHOLE, **DRAWN}):
        what = "data set" if name in DATASETS else "guide"
        raise ZooError(f"expected a model; got the {what} '{name}'; 'zoo list' shows it")
    return lookup(MODELS, name, "model")


def _documentation(entry: ModelEntry) -> str:
    """Return what a model's class says of itself, without examples and markup."""
    text = (inspect.getdoc(load(entry.path)) or "").split("\n>>>")[0].rstrip()
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")


def _print_options(name: str) -> None:
    from zoo.construct import options

    print_table("options", ("option", "default"), (
        (f"--{key.replace('_', '-')}", str(p.default)) for key, p in options(name).items()))


def _by_methods(model: Model, x: Data) -> dict[str, list[str]]:
    """Return the guides that fit, by the methods that fit them in words."""
    from guides.construct import sketch

    found: dict[str, list[str]] = {}
    for text in fitting_guides(model.facts(x)):
        guide = sketch(text, model, x)
        methods = fitting_methods(guide, x)
        methods += [f"{name} (θ fixed)" for name in fitting_methods(guide, x, train_model=False) if name not in methods]
        found.setdefault(", ".join(methods) or "nothing to fit", []).append(text)
    return found
