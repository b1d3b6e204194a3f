"""Write docs/verdict.md: which guide a model needs, by commands and code whose output the page shows."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parent / "verdict.md"

HEAD = """# The verdict: which guide is needed, and what the next one would gain

`make docs` writes this page: it runs the code and the commands, and shows what they print. Seconds are those of one run.

Two questions come with every variational fit: is it near the posterior, and is a richer guide worth its time? `compare` answers
the first for the guides that one names. `recommend` answers both: it climbs a ladder of guides from the cheapest to the
dearest, and stops at the first whose gap KL(q ‖ posterior) is certain to be within a tolerance.
"""

COIN = '''import pyro
import pyro.distributions as dist
import torch
import experiments

def coin(x):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)

x = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
print(experiments.recommend(coin, x))'''

LADDER = """
## The ladder

{ladder}

`BEST` is the guide of the highest ELBO so far. Rungs that do not fit a model are left out: those of one unit where each row has
latents of its own, those for all correlations above 200 latents. A model that knows its posterior has one rung, `exact`. Each
rung starts from those below: a normal from the highest normal that it contains, draws from the fit that they correct.

A rung is near enough where the *upper* end of its gap's interval is within the tolerance, 0.1 nats of each unit where nobody
says. log p(x | θ) is looked for only where that is open: a rung whose own importance weights show that it is too low by more
costs nothing beyond its fit. In the end all rungs are held against what is then known, and the cheapest that is near enough is
chosen. Draws have to have converged, too: k̂ at most 0.7 for `psis`, an effective sample size of half the paths for `ais`,
R-hat below 1.01 for `nuts`. Draws of `psis` and `ais` have a bound in the place of the ELBO, and their gap is at least the
divergence of one draw ([Domke and Sheldon, 2018](https://arxiv.org/abs/1808.09034)). Markov chains have none: they are the last
rung, and where they agree they are chosen.
"""

SCHOOLS = """
## Eight schools

A normal at the mode is 20 nats off, the best normal 0.2. Importance weights close the gap."""

QUANTITIES = """
## Quantities in place of nats

Often a few quantities are what matters. With `--quantity` a rung is near enough where their means are right to 0.1 standard
deviations and their standard deviations to 10%, errors included, against importance-corrected draws; such draws are right by
themselves, where they have converged."""

OWN = """
## A program of one's own

`FILE.py:NAME` is a Pyro program in a file. Its arguments are columns of the data by name; the file is run, so it is to be one
that you trust. With `--out` the verdict is kept as JSON, with a figure of gaps against seconds."""

RUNGS = """
## All rungs in one table

A guide may name the method that fits it, so one comparison has them all. Below the table stand remarks, the most important
first, each with what to do. Errors of quantities are against the chains, which agree."""

EVERY = (
    "full_rank@laplace,full_rank@pathfinder,draws@pathfinder,mean_field,full_rank,draws(full_rank)@psis,draws(full_rank)@ais,"
    "draws@nuts")

TAIL = """
docs/rungs.md holds every rung to the reference draws of posteriordb, and docs/recommendations.md the choices to log p where it
is known.

## What it costs

`effort` bounds what the evaluation may cost beside the fits, in evaluations of log p(x, z): `none`, `quick`, `default` and
`thorough` are 0, 1, 5 and 50 times what the fits took, with a floor ([registries.md](registries.md)). The table's last line
says what was spent. Work on log p(x | θ) ends where its interval is narrow enough for the tolerance.
"""

PROGRAM = '''import pyro
import pyro.distributions as dist

def line(dose, response=None):
    level = pyro.sample("level", dist.Normal(0.0, 10.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
    noise = pyro.sample("noise", dist.HalfNormal(5.0))
    with pyro.plate("rows", len(dose)):
        pyro.sample("response", dist.Normal(level + slope * dose, noise), obs=response)
'''
DATA = "dose,response\n0.5,1.9\n1.0,3.4\n1.5,3.6\n2.0,5.3\n2.5,5.6\n3.0,7.4\n3.5,8.1\n4.0,8.6\n"


def ran(code: str) -> str:
    """Return code and what it prints, as blocks of Markdown."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "verdict", "exec"), {})
    return f"```python\n{code}\n```\n\n```\n{out.getvalue().rstrip()}\n```"


def said(command: str, folder: Path) -> str:
    """Return a command and what it prints, as a block of Markdown."""
    done = subprocess.run(
        f"{Path(sys.executable).parent / 'zoo'} {command}", shell=True, cwd=folder, capture_output=True, text=True, check=True)
    lines = "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())
    return f"```\n$ zoo {command}\n{lines}\n```"


def ladder() -> str:
    """Return the rungs as a table."""
    from experiments.comparison.ladder.rungs import LADDER

    rows = [f"| `{rung.text}` | {rung.adds} |" for rung in LADDER]
    return "\n".join(["| rung | what it adds |", "|---|---|", *dict.fromkeys(rows)])


def page() -> str:
    """Return the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dose.py").write_text(PROGRAM)
        (folder / "dose.csv").write_text(DATA)
        return "\n".join([
            HEAD, ran(COIN), LADDER.format(ladder=ladder()), SCHOOLS, "", said("recommend eight_schools", folder),
            QUANTITIES, "", said("recommend eight_schools --quantity mu", folder), OWN, "", f"```python\n{PROGRAM}```", "",
            said("recommend dose.py:line --data dose.csv --out verdict", folder), RUNGS, "",
            said(f"compare eight_schools -g '{EVERY}' --no-save", folder), TAIL])


if __name__ == "__main__":
    PAGE.write_text(page())
