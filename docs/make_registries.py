"""Write docs/registries.md: every model, guide, method, estimator, data set and study there is, from the registries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.inference.registry import METHODS
from experiments.log_evidence.registry import ESTIMATORS
from experiments.runtime.effort import EFFORTS
from experiments.studies.registry import STUDIES
from guides.registry import AMORTISATIONS, DRAWN, FAMILIES, WHOLE
from guides.spec import fitting_guides
from zoo.registry import DATASETS, MODELS

PAGE = Path(__file__).parent / "registries.md"
HEAD = """# What there is

`make docs` writes this page from the registries. `zoo list` prints the same tables; `zoo list MODEL` describes a model.
CONTRIBUTING.md says how to add an entry.
"""


BLOCKS = """## Guides of two blocks

Where rows share latents and own others, a guide may have a factor for each block, `FAMILY+FAMILY[:AMORTISATION]`, the shared
latents' family first: `full_rank+mean_field`, `full_rank+mean_field:encoder`. With `shared=True`, as in
`mean_field:encoder(shared=True)` or `mean_field:free(shared=True)`, each row's factor depends on the shared latents, too.
"""

DRAWS = """Draws have no density, so no ELBO: `psis` and `ais` give a lower bound in its place, `nuts` none. Any guide may name
the method that is to fit it, behind an `@`: `full_rank@laplace`, `draws(full_rank)@psis`. One comparison then has several
methods: `zoo compare eight_schools -g full_rank@laplace,full_rank,draws@nuts`.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([
        HEAD,
        table("Models", ("model", "what", "latents", "data", "guides that fit"), (
            (name, e.summary, f"{e.latents}, {e.facts('').owners}", e.data,
             ", ".join(fitting_guides(e.facts(name)))) for name, e in MODELS.items())),
        table("Guides without a family", ("guide", "what"), ((name, e.summary) for name, e in WHOLE.items())),
        table("Families of guides", ("family", "what", "latents", "contains"), (
            (name, e.summary, e.latents, ", ".join(e.contains) or "—") for name, e in FAMILIES.items())),
        BLOCKS,
        table("Guides known by draws", ("guide", "what", "the guide that they begin from, where none is written"), (
            (f"{name}(GUIDE)", e.summary, f"`{e.source}`") for name, e in DRAWN.items())),
        DRAWS,
        table("Amortisations", ("amortisation", "what"), ((name, e.summary) for name, e in AMORTISATIONS.items())),
        table("Methods of inference", ("method", "what"), ((name, e.summary) for name, e in METHODS.items())),
        table("Estimators of log p(x | θ), in order of trust", ("kind", "what the report says"), (
            (name, e.verdict) for name, e in ESTIMATORS.items())),
        table("Efforts of an evaluation", ("effort", "what", "times the fits'", "at least"), (
            (name, e.summary, f"{e.multiple:g}", f"{e.floor:,}") for name, e in EFFORTS.items())),
        table("Data sets", ("data set", "what", "serves as"), (
            (name, e.summary, ", ".join(e.gives)) for name, e in DATASETS.items())),
        table("Studies", ("study", "claim"), ((name, e.claim) for name, e in STUDIES.items()))])


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table under a heading, the first cell of each row as code."""
    lines = [f"## {title}\n", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| `{name}` | " + " | ".join(cell.replace("|", "\\|") for cell in rest) + " |"
                                for name, *rest in rows)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
