"""What the commands leave behind: a directory of results and figures, or a printed summary."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from experiments.evaluation import Evaluation
    from experiments.table import Comparison, Row
    from zoo.datasets import Dataset


class Output:
    """A directory for results, as a context. It is made and tried on entry, before the work starts.

    Where the work fails it is removed again, if it was made here and is still empty.

    Args:
        path: where; ``None`` writes nothing.

    Raises:
        ZooError: on entry, if it can't be written to.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._made: list[Path] = []

    def __enter__(self) -> Output:
        if self.path is not None:
            self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.path):
                    pass
            except OSError as error:
                raise ZooError(
                    f"expected a directory to write to; got --out {self.path}: {error.strerror or error}; choose another"
                ) from error
        return self

    def __exit__(self, *problem: object) -> None:
        for path in self._made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def write(self, table: Comparison, data_set: Dataset) -> None:
        """Write comparison.json, comparison.csv and the figures that have a meaning for this model."""
        if self.path is None:
            return
        import matplotlib as mpl

        whole(self.path / "comparison.json", json.dumps(table.to_dict(), indent=1, allow_nan=False, ensure_ascii=False))
        whole(self.path / "comparison.csv", table.to_frame().to_csv())
        (self.path / "figures").mkdir(exist_ok=True)
        with mpl.rc_context({"backend": "agg"}):
            self._figures(table, data_set)
        remark(f"wrote {self.path}")

    def _figures(self, table: Comparison, data_set: Dataset) -> None:
        from experiments import figures, pictures

        assert self.path is not None, "called by write() only"
        best = best_row(table)
        guide, q, shape = best.evaluation.guide, best.fit.guide, data_set.shape
        table = replace(table, model=best.fit.model)  # each guide may have trained a θ of its own
        tree = _tree(table, data_set, guide, 500, ("posterior",))
        drawn = _tree(table, data_set, guide, 60, ("posterior_predictive", "observed_data"))
        made: dict[str, Callable[[], Any]] = {
            "elbo": lambda: figures.elbo_trace(table), "gap": lambda: figures.gap_bars(table),
            "forest": lambda: figures.forest(tree), "pair": lambda: figures.pair(tree),
            "predictive": lambda: figures.predictive_check(drawn),
            "density": lambda: figures.density(table.model, table.x, q, data_set.columns, table.seed),
            "split": lambda: pictures.split_bars(table), "samples": lambda: pictures.samples(table),
            "reconstructions": lambda: pictures.reconstructions(table, q, shape),
            "prior": lambda: pictures.prior_samples(table.model, shape, table.seed),
            "traversal": lambda: pictures.traversal(table, q, shape),
            "latent_map": lambda: pictures.latent_map(table, q, data_set.labels),
            "worst": lambda: pictures.worst_units(table, table.rows[0].evaluation.guide, shape),
            "layers": lambda: pictures.flow_layers(table, q)}
        for name, make in made.items():
            try:
                figures.save(make(), self.path / "figures" / name)
            except (ZooError, NotImplementedError):
                continue  # not every figure has a meaning for every model: discrete latents have no forest
            except Exception as error:  # a figure that fails must not take the numbers with it
                remark(f"figure '{name}' could not be drawn: {(str(error).splitlines() or [type(error).__name__])[0][:160]}")


def remark(text: str) -> None:
    """Print a remark on standard error."""
    print(f"remark: {text}", file=sys.stderr)


def best_row(table: Comparison) -> Row:
    """Return the row of the highest ELBO."""
    return max(table.rows, key=lambda row: row.evaluation.elbo.value)


def whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def labels(data_set: Dataset) -> dict[str, tuple[str, ...]]:
    """Return the labels a data set gives to dimensions: its columns, rows and coefficients."""
    found = {"column": distinct(data_set.columns), "coefficient": distinct(("intercept", *data_set.columns))}
    if data_set.rows:
        found["school"] = distinct(data_set.rows)
    return found


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Number the names that come more than once.

    >>> distinct(("a", "b", "a"))
    ('a', 'b', 'a (2)')
    """
    return tuple(
        f"{name} ({names[: i + 1].count(name)})" if names[:i].count(name) else name for i, name in enumerate(names))


def _tree(table: Comparison, data_set: Dataset, guide: str, draws: int, groups: tuple[str, ...]) -> Any:
    from experiments.tree import posterior

    return posterior(
        table.model, table.guide(guide), table.x, draws=draws, seed=table.seed, groups=groups, coords=labels(data_set))


def print_summary(table: Comparison, data_set: Dataset, draws: int, as_json: bool) -> None:
    """Print ArviZ's summary of the first guide's posterior, and how far to trust it."""
    import arviz_stats as azs

    row = table.rows[0].evaluation
    tree = _tree(table, data_set, row.guide, draws, ("posterior",))
    frame = azs.summary(tree, kind="stats", round_to="none", ci_prob=0.94, ci_kind="eti")
    if as_json:
        print(json.dumps({
            "model": table.model.label, "data": table.data, "guide": row.guide, "draws": draws, "khat": row.khat,
            "summary": json.loads(frame.to_json(orient="index"))}, indent=1, ensure_ascii=False))
        return
    print(frame.to_string(float_format=lambda value: f"{value:.3f}"))
    remark(verdict(row))


def verdict(row: Evaluation) -> str:
    """Say what k̂ means for means and intervals under the guide."""
    if row.khat is None:
        return f"'{row.guide}' was enumerated or is exact: k̂ does not apply"
    if row.misses_mass:
        return f"k̂ = {row.khat:.2f} > 0.7: '{row.guide}' misses posterior mass that matters; read its intervals with care"
    return f"k̂ = {row.khat:.2f}, ESS {row.ess:.0f} of {row.draws}: nothing speaks against '{row.guide}'"
