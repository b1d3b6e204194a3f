"""Comparisons and fits made in Python, saved as a run's directory, and loaded again with the model at hand."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from torch import Tensor

from experiments.comparison.compare import settle as evaluated
from experiments.comparison.plan import ComparisonPlan, FittedComparison, alone
from experiments.comparison.table import Comparison
from experiments.fits.export import check_latents
from experiments.fits.journal import Journal
from experiments.fits.result import Fit
from experiments.inference.engine import state_tensors
from experiments.inference.saved import as_before_if_refused, keep, restore
from experiments.reporting.record import read, settle
from experiments.reporting.results import write_posterior, write_table
from experiments.runs.grid import write_toml
from experiments.runs.provenance import provenance
from experiments.runs.run import check_empty
from experiments.runs.spec import checked
from experiments.runtime.files import directory, locked, whole
from experiments.runtime.holdout import partition
from guides.construct import build
from guides.pyro_guide.guide import as_guide
from zoo.bare import FunctionModel, as_model
from zoo.data import Data, tensors
from zoo.datasets import Dataset
from zoo.errors import ZooError
from zoo.model import Model

if TYPE_CHECKING:
    from zoo.program.run import Program

DATA = "data.safetensors"


def save(done: Comparison | Fit, path: str | Path, figures: bool = True, effort: str = "default") -> Path:
    """Save a comparison, or a fit, which is evaluated first, as the directory of a run that is done.

    It holds what a run's does, and the data; ``experiments.load(path, model=…)`` gives it back, ``zoo report`` makes its page.

    Args:
        done: what :func:`experiments.compare` or :func:`experiments.fit` returned.
        path: a directory that is new or empty.
        figures: whether to write the posterior's draws, the figures and the page.
        effort: of a fit's evaluation.

    Raises:
        ZooError: a directory that holds something, or can't be written to; a fit that does not know its data.
    """
    path, table = Path(path), done if isinstance(done, Comparison) else _table(done, effort)
    with directory(path), locked(path):
        check_empty(path, "a new one to save to")
        _write(table, path)
        write_table(table, path)
        if figures:
            write_posterior(table, Dataset(table.data, table.x), path)
        settle(path, "done")
        if figures:
            from experiments.reporting.report import page

            whole(path / "report.html", page([read(path)]))
    return path


def report(table: Comparison, path: str | Path) -> Path:
    """Write the page of a comparison, one file that needs no network and no other file, to ``path``."""
    from experiments.reporting.report import page

    with tempfile.TemporaryDirectory() as folder:
        made = save(table, Path(folder) / "run")
        whole(Path(path), page([read(made)]))
    return Path(path)


def _table(done: Fit, effort: str) -> Comparison:
    """Evaluate a fit, on the data that it was fitted to."""
    x = done.guide.fitted
    if x is None:
        raise ZooError(f"expected a fit that knows its data; got one of '{done.guide.text}' without; pass a comparison")
    return evaluated(alone(done, x, 0), effort=effort)


def _write(table: Comparison, path: Path) -> None:
    """Write the data, the parameters, and what the rest is rebuilt from."""
    data = {name: value.detach().cpu().contiguous().clone() for name, value in tensors(table.x).items()}
    whole(path / DATA, safetensors.torch.save(data))
    journal = Journal(path / "checkpoint")
    guides = []
    for row in table.rows:
        done = row.fit
        keep(journal.of(done.guide.text), done)
        theta = done.states is not None and len(done.states.tensors) > len(state_tensors(done.model, done.guide, False))
        guides.append([done.guide.text, done.guide.written, theta])
    model = written(table.model)
    spec = checked("", command="compare", model=model, data=str(path.resolve() / DATA), seed=table.seed)
    plain = {} if isinstance(table.x, Tensor) else {name: value for name, value in table.x.items() if name not in data}
    saved = {
        "guides": guides, "mapping": isinstance(table.x, Mapping), "own_theta": table.own_theta,
        "plain": json.dumps(plain), "entries": list(table.x) if isinstance(table.x, Mapping) else [],
        "latents": [site.name for site in table.model.latents(table.x).sites]}
    whole(path / "spec.toml", write_toml(spec, {**provenance(Dataset(table.data, table.x), spec), "saved": saved}))


def written(model: Model) -> str:
    """Return the name of a model's program, or of its class, with its module's.

    >>> import zoo
    >>> written(zoo.build("gmm", zoo.dataset("faithful").x))
    'zoo.models.gmm:GMM'
    """
    named: Any = model.program if isinstance(model, FunctionModel) else type(model)
    named = named if hasattr(named, "__name__") else type(named)
    module, name = (re.sub(r"[^0-9A-Za-z_.]", "_", text) for text in (named.__module__, named.__name__))  # <lambda>, my-model
    return f"{module}:{name.replace('.', '_')}"


def restored(
    path: Path, saved: Mapping[str, Any], rows: Sequence[str], seed: int, model: Model | Program, guides: Mapping[str, Any],
) -> FittedComparison:
    """Return the fits of a saved comparison: guides are built from their texts, or taken from ``guides``; parameters are read.

    ``rows``: the guides of its table.

    Raises:
        ZooError: parameters that do not fit the model, a guide whose text builds none, or a file that was altered.
    """
    named = saved.get("guides")
    if not isinstance(named, list) or not all(isinstance(one, list) and len(one) == 3 for one in named) or [
            one[0] for one in named] != [*rows]:
        raise ZooError(f"expected the guides of the saved table in {path / 'spec.toml'}; got others; save it again")
    x, own = read_data(path, saved), as_model(model)
    check_latents(own, x, saved.get("latents"))
    journal, fits = Journal(path / "checkpoint", sealed=True), []
    with as_before_if_refused(own):
        for text, how, theta in named:
            if not how and text not in guides:
                raise ZooError(f"expected guides={{'{text}': …}}; Pyro's own guides can't be built from their names")
            one = copy.deepcopy(own) if saved.get("own_theta") else own
            whole = as_guide(one, guides.get(text, how), x)
            guide = build(whole, one, x, seed=seed) if isinstance(whole, str) else whole
            guide.text = text
            done = restore(journal.of(text), one, guide, bool(theta))
            assert done is not None, "a sealed journal has all fits"
            guide.fit_to(x)
            fits.append(done)
    plan = ComparisonPlan(own, partition(x, own.latents(x).units, 0.0), None, seed, None)
    return FittedComparison(plan, None, fits, None, own_theta=bool(saved.get("own_theta")))


def read_data(path: Path, saved: Mapping[str, Any]) -> Data:
    """Return the data of a saved comparison.

    Raises:
        ZooError: they can't be read.
    """
    try:
        found = safetensors.torch.load((path / DATA).read_bytes())
        if not saved.get("mapping"):
            return found["x"]
        parts = {**found, **json.loads(str(saved.get("plain", "{}")))}
        return {str(name): parts[name] for name in saved["entries"]}  # in their order: encoders read columns by it
    except (OSError, KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise ZooError(f"expected data in {path / DATA}; got a file that can't be read ({type(error).__name__})") from None
