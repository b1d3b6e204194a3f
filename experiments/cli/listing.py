"""What ``zoo list`` shows: the registries, read without importing anything heavy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from experiments.comparison.terminal.console import cell, console
from experiments.comparison.terminal.text import grid, interval, number
from experiments.inference.options import names
from experiments.inference.registry import METHODS, known_options
from guides.registry import AMORTISATIONS, DRAWN, FAMILIES, WHOLE
from guides.spec import fitting_guides
from zoo.registry import DATASETS, KINDS, MODELS, Registry

if TYPE_CHECKING:
    from experiments.studies.runner import Report


def show() -> None:
    """Print all registries."""
    out = console()
    print_table("models", ("model", "what", "latents", "data that fits", "guides that fit"), _model_rows())
    print_table("guides, written family[:amortisation]", ("guide", "what", "for"), _guide_rows())
    print_table("methods", ("method", "what", "options"), (
        (named(METHODS, n), e.summary, " ".join(key for key, one in known_options().items() if one.name in names(e.options)))
        for n, e in METHODS.items()))
    print_table("data sets", ("data", "what", "serves as"), (
        (named(DATASETS, n), e.summary, ", ".join(e.gives)) for n, e in DATASETS.items()))
    kinds = "; ".join(f"{k}: {v}" for k, v in KINDS.items())
    out.print(f"A CSV, NPY, NPZ, Parquet or IDX file serves as any kind: {kinds}. sample:MODEL draws from a model.")
    out.print("'zoo list MODEL' shows what a model is: its options, sites and plates, and what fits it.")


def _model_rows() -> Iterable[tuple[str, ...]]:
    """Return a row a model: what it is, and the data sets and guides that fit it."""
    data = {kind: [d for d, entry in DATASETS.items() if kind in entry.gives] for kind in KINDS}
    return (
        (named(MODELS, model), e.summary, f"{e.latents}, {e.facts('').owners}", " ".join(data[e.takes]),
         " ".join(fitting_guides(e.facts(model))))
        for model, e in MODELS.items())


def named(registry: Registry[Any], name: str) -> str:
    """Return the name of an entry, with the package that it is of where that is another."""
    package = registry.source(name)
    return f"{name} ({package})" if package else name


def _guide_rows() -> Iterable[tuple[str, ...]]:
    """Return a row a guide, a family and an amortisation: what it is, and what it is for."""
    return [
        *((f"{n}(GUIDE)", e.summary, "continuous latents") for n, e in DRAWN.items()),
        *((n, e.summary, "models that know p(z | x)" if e.exact else "any model") for n, e in WHOLE.items()),
        *((named(FAMILIES, n), e.summary, f"{e.latents} latents") for n, e in FAMILIES.items()),
        *((f":{n}", e.summary, "latents per row" if e.units == ("rows",) else "any") for n, e in AMORTISATIONS.items())]


def show_studies() -> None:
    """Print the studies, in the order of the theory."""
    from experiments.studies.registry import STUDIES

    print_table("studies", ("study", "claim"), ((name, entry.claim) for name, entry in STUDIES.items()))
    console().print("'zoo study NAME' runs one, 'zoo study --all' all of them.")


def show_report(report: Report) -> None:
    """Print what a study found, a line a number."""
    from experiments.studies.registry import STUDIES

    out = console()
    out.print(f"{report.name}: {STUDIES[report.name].claim}", soft_wrap=True)
    for check in report.checks:
        verdict = "holds" if check.holds else "FAILS"
        out.print(f"  {verdict}  {check.what}: {check.value:.6g}; expected {check.expected}",
                  soft_wrap=True)
    if report.error:
        out.print(f"  FAILS  {report.error}", soft_wrap=True)
    files = f"; wrote {', '.join(report.files)}" if report.files else ""
    out.print(f"  {report.seconds:.1f} s{files}", soft_wrap=True)


def show_runs(rows: list[dict[str, Any]]) -> None:
    """Print runs, a row a run and guide; ELBO and gap in nats per unit."""
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        if "guide" not in row:
            return row["run"], row["state"], "", "", "", "", row["error"]
        units = row["units"]
        gap = {key: None if row[f"kl_gap_{key}"] is None else row[f"kl_gap_{key}"] / units for key in ("se", "lower", "upper")}
        low = "∞" if gap["lower"] is None else interval(gap)
        khat = "—" if row["khat"] is None else f"{row['khat']:.2f}"
        elbo = None if row["elbo"] is None else number(row["elbo"] / units, (row["elbo_se"] or 0.0) / units)
        return row["run"], row["state"], row["guide"], elbo or "−∞", low, khat, f"{row['seconds']:.2f}"

    heads = ("run", "state", "guide", "ELBO per unit", "KL(q‖posterior) per unit, 95%", "k̂", "sec.")
    print_table("", heads, [cells(row) for row in rows])


def print_table(title: str, heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table under its title, ruled on a terminal."""
    out = console()
    table = grid(title, out)
    for i, head in enumerate(heads):
        table.add_column(head, no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    out.print(table)
