"""Write docs/benchmarks.md and its figures from the JSON files that benchmarks left in docs/benchmarks, and earlier.md there.

``make benchpage`` runs all benchmarks, most of an hour on two cores, and then this.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks are no part of what is installed

from benchmarks.registry import BENCHMARKS
from benchmarks.results import Result, Row
from benchmarks.show import draw, goals, met, number, ratio

HERE = Path(__file__).parent
PAGE = """# Benchmarks

The benchmarks time the zoo beside its peers, on the same data, model, family, float type and cores. Before anything is timed,
contenders must come to the same numbers. The contenders then run in turn in one process, each after a rest. A ratio is the
peer's time over the zoo's time, so above 1 the zoo is quicker; the median over pairs of runs is shown, with the least and the
most in brackets. A *warm* run has everything imported and compiled. A *cold* run is the first call of a fresh process that has
imported its library, so compilation and the model's own imports are included. `>` means that the peer did not get there
within its limit, so the ratio is at least that number.

`make bench` runs the benchmarks; `python -m benchmarks --list` lists the benchmarks; `make benchpage` runs all benchmarks and
writes this page (`docs/make_benchmarks.py`). Your numbers will differ with the machine.

{machines}

{summary}
"""
HEADS = ("case", "peer", "goal", "warm", "cold", "medians", "goal met")


def main(folder: Path = HERE / "benchmarks", page: Path = HERE / "benchmarks.md") -> None:
    """Write ``page`` from the results in ``folder``, in the registry's order; draw each one's curves beside its JSON."""
    results = [Result.read(folder / f"{name}.json") for name in BENCHMARKS if (folder / f"{name}.json").exists()]
    for found in results:
        if found.curves:
            draw(found, folder / f"{found.name}.png")
    earlier = folder / "earlier.md"  # against a commit before, measured once, by hand
    page.write_text(text(results, folder.name) + (f"\n{earlier.read_text()}" if earlier.exists() else ""))


def text(results: Sequence[Result], folder: str) -> str:
    """Return the page; figures are in ``folder`` beside it."""
    counted = summary([(found.name, row) for found in results for row in found.rows])
    absent = [name for name in BENCHMARKS if name not in [found.name for found in results]]
    if absent:
        counted += f"\n\nNot measured for this page: {', '.join(absent)}."
    head = PAGE.format(machines=machines(results), summary=counted)
    return "\n".join([head, *(section(found, folder) for found in results)])


def summary(rows: Sequence[tuple[str, Row]]) -> str:
    """Return how many rows (with the names of their benchmarks) meet their goals, and name those that miss them."""
    judged = [(name, row) for name, row in rows if row.met is not None]
    missed = [
        f"- {name}: {row.case}, against {row.peer}: {goals(row)}; got {_got(row)}" for name, row in judged if not row.met]
    line = f"{len(judged) - len(missed)} of {len(judged)} goals are met."
    return "\n".join([line, *(["", "Missed:", "", *missed] if missed else [])])


def _got(row: Row) -> str:
    """Return the ratios that have goals."""
    pairs = [(row.goal_warm, row.warm, "warm"), (row.goal_cold, row.cold, "cold")]
    judged = [(found, when) for goal, found, when in pairs if goal is not None]
    return ", ".join(f"{number(found.median) if found else 'nothing'} {when}" for found, when in judged)


def machines(results: Sequence[Result]) -> str:
    """Return where results were measured, one line for each machine that there was."""
    lines: dict[str, list[str]] = {}
    for found in results:
        lines.setdefault(machine(found.machine), []).append(found.name)
    if len(lines) == 1:
        return f"Measured on {next(iter(lines))}."
    return "\n".join(f"- {', '.join(names)}: {line}." for line, names in lines.items())


def machine(facts: Mapping[str, Any]) -> str:
    """Return a machine in a line."""
    named = ("processor", "cores", "threads", "memory", "system", "date")
    versions = ", ".join(f"{name} {value}" for name, value in facts.items() if name not in named)
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads used, {facts['memory']} of memory, "
        f"{facts['system']}; {versions}; {facts['date']}")


def section(found: Result, folder: str) -> str:
    """Return one benchmark's part of the page."""
    parts = [f"## {found.name}", found.about]
    if found.rows:
        parts += [table(HEADS, [cells(row) for row in found.rows]), checks(found.rows)]
    parts += [f"{each.title}\n\n{table(each.heads, each.rows)}" for each in found.tables]
    if found.curves:
        parts.append(f"![ELBO against seconds]({folder}/{found.name}.png)")
    if found.facts and not found.rows:
        parts.append(f"```json\n{json.dumps(found.facts, indent=1)}\n```")
    return "\n\n".join([*parts, f"```\npython -m benchmarks {found.name}\n```\n"])


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells, in the order of :data:`HEADS`."""
    medians = ", ".join(f"{name} {number(value)}" for name, value in row.spent.items()) + f" {row.unit}"
    if row.spent_cold:
        medians += "; cold " + ", ".join(f"{name} {number(value)}" for name, value in row.spent_cold.items()) + " s"
    return row.case, row.peer, goals(row), ratio(row.warm, row.at_least), ratio(row.cold, row.at_least), medians, met(row)


def checks(rows: Sequence[Row]) -> str:
    """Return what was checked to agree before anything was timed, and what else there is to know of each row."""
    agreed: dict[str, list[str]] = {}
    for row in rows:
        agreed.setdefault(row.agrees, []).append(row.case)
    lines = [f"- {', '.join(dict.fromkeys(cases))}: {what}" for what, cases in agreed.items()]
    notes = dict.fromkeys(f"- {row.case}, {row.peer}: {row.note}" for row in rows if row.note)
    return "\n".join(["Agreed before timing:", "", *lines, *(["", "Notes:", "", *notes] if notes else [])])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
