"""Write docs/studies.md and its figures from what the studies found. ``make studies`` runs it, some three minutes."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from experiments.studies import STUDIES, claim
from experiments.studies.runner import perform_all

HERE = Path(__file__).parent
PAGE = """# Studies

The studies are experiments on the theory that the zoo rests on. Each study has a claim, the claim's derivation, a figure, and
numbers beside their expected values. Read from the top, the studies are a course: flows carry a density through an invertible
map; latent variables make a likelihood that must be summed or integrated; naive Monte Carlo can't compute this likelihood in
high dimension; Bayes' rule, EM and variational inference can; and a guide's gap says how well.

`zoo study` lists the studies, `zoo study NAME` runs one study, and `zoo study --all` runs all studies in under three minutes on
two cores. A study prints its numbers, writes a figure (PNG, SVG) and its findings (JSON), and exits with 3 if its claim does
not hold. The studies use only the library's public names: each file under `experiments/studies/` is also an example.

`make studies` (`docs/make_studies.py`) wrote this page.
"""


def main() -> None:
    pages = [PAGE]
    with tempfile.TemporaryDirectory() as place:
        for report in perform_all(list(STUDIES), Path(place)):
            if not report.holds:
                sys.exit(f"error: expected every claim to hold; got {report.name}: {report.error or 'see zoo study'}; mend it")
            shutil.copy(Path(place) / f"{report.name}.png", HERE / "studies" / f"{report.name}.png")
            pages.append(section(report.name, json.loads((Path(place) / f"{report.name}.json").read_text())))
    (HERE / "studies.md").write_text("\n".join(pages))


def section(name: str, found: dict) -> str:
    """Return one study's part of the page: what it claims, its figure, its numbers and the command."""
    title, _, rest = claim(name).partition("\n")
    while rest and not rest.startswith("\n"):  # a title of two lines
        line, _, rest = rest.lstrip().partition("\n")
        title = f"{title} {line}"
    rows = "\n".join(f"| {cell(c['what'])} | {c['value']:.6g} | {cell(c['expected'])} |" for c in found["checks"])
    return f"""## {name}

**{title}**

{rest.strip()}

![{STUDIES[name].claim}](studies/{name}.png)

| | found | expected |
|---|---|---|
{rows}

```
zoo study {name}
```
"""


def cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    (HERE / "studies").mkdir(exist_ok=True)
    main()
