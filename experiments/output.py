"""What the commands leave behind: a directory of results and figures, or a printed summary."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from experiments.comparison import Comparison
    from zoo.datasets import Dataset


class Output:
    """A directory for results. It is made and tried before the work starts, and written when the work is done.

    Args:
        path: where; ``None`` writes nothing.

    Raises:
        ZooError: if it can't be written to.
    """

    def __init__(self, path: Path | None):
        self.path = path
        if path is None:
            return
        try:
            (path / "figures").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise ZooError(
                f"expected a directory to write to; got --out {path}: {error.strerror or error}; choose another") from error

    def write(self, table: Comparison, data_set: Dataset) -> None:
        """Write comparison.json, comparison.csv, posterior.nc of the first guide, and the figures."""
        if self.path is None:
            return
        import matplotlib as mpl

        whole(self.path / "comparison.json", json.dumps(table.to_dict(), indent=1, allow_nan=False, ensure_ascii=False))
        whole(self.path / "comparison.csv", table.to_frame().to_csv())
        backend = mpl.get_backend()
        mpl.use("agg")
        try:
            self._figures(table, data_set)
        finally:
            mpl.use(backend)
        print(f"wrote {self.path}", file=sys.stderr)

    def _figures(self, table: Comparison, data_set: Dataset) -> None:
        from experiments import figures

        assert self.path is not None, "called by write() only"
        folder, guide = self.path / "figures", best_guide(table)
        tree = _tree(table, data_set, guide, draws=500)
        columns = data_set.columns
        made: dict[str, Callable[[], Any]] = {
            "elbo": lambda: figures.elbo_trace(table), "gap": lambda: figures.gap_bars(table),
            "forest": lambda: figures.forest(tree), "pair": lambda: figures.pair(tree),
            "predictive": lambda: figures.predictive_check(tree),
            "density": lambda: figures.density(table.model, table.x, table.guide(guide), columns, table.seed)}
        for name, make in made.items():
            try:
                figure = make()
            except (ZooError, NotImplementedError):
                continue  # not every figure has a meaning for every model: discrete latents have no forest
            figures.save(figure, folder / name)


def best_guide(table: Comparison) -> str:
    """Return the guide of the highest ELBO."""
    return max(table.rows, key=lambda row: row.evaluation.elbo.value).evaluation.guide


def whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def labels(data_set: Dataset) -> dict[str, tuple[str, ...]]:
    """Return the labels a data set gives to dimensions: its columns, rows and coefficients."""
    found = {"column": data_set.columns, "coefficient": ("intercept", *data_set.columns)}
    if data_set.rows:
        found["school"] = data_set.rows
    return found


def _tree(table: Comparison, data_set: Dataset, guide: str, draws: int, groups: tuple[str, ...] = ()) -> Any:
    from experiments.tree import GROUPS, posterior

    kept = tuple(g for g in GROUPS if g not in ("prior", "log_likelihood"))
    return posterior(
        table.model, table.guide(guide), table.x, draws=draws, seed=table.seed, groups=groups or kept, coords=labels(data_set))


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
    print(verdict(row.khat, row.guide), file=sys.stderr)


def verdict(khat: float | None, guide: str) -> str:
    """Say what k̂ means for means and intervals under the guide.

    >>> verdict(0.9, "mean_field")
    "k̂ = 0.90 > 0.7: 'mean_field' misses posterior mass that matters; read its intervals with care"
    """
    if khat is None:
        return f"'{guide}' was enumerated or is exact: k̂ does not apply"
    if khat > 0.7:
        return f"k̂ = {khat:.2f} > 0.7: '{guide}' misses posterior mass that matters; read its intervals with care"
    return f"k̂ = {khat:.2f} ≤ 0.7: importance weights of '{guide}' have the moments they need"
