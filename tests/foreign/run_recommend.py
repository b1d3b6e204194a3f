"""Ask which guide each foreign program needs, hold the choice to what is known, and write it to docs/recommendations.md.

``python -m tests.foreign.run_recommend [NAME ...]``. The exit code is 1 where a program crashes, or too few choices are right.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.foreign.run import PROCESSES, apart

PAGE = Path(__file__).parents[2] / "docs" / "recommendations.md"
KEPT = PAGE.with_suffix(".json")
TOLERANCE = 0.1
#: The shares of choices that have to be near enough, and of these that have to be the cheapest that is.
NEAR, CHEAPEST = 0.95, 0.75

HEAD = """# Which guide each foreign program needs

`make foreign` writes this page. The command runs `experiments.recommend(program, x)` once on each of {count} bare Pyro programs
and posteriors of [posteriordb](https://github.com/stan-dev/posteriordb) (BSD-3), with a tolerance of {tolerance} nats; seconds
are those of two programs at a time on two cores. Where log p is known without the zoo, so is the gap of each rung that was
tried, log p − ELBO: the columns say what the choice's is, and which tried rung is the cheapest whose gap is within the
tolerance, draws that have not converged left out.

{summary}

| program | chosen | gap, 95% | gap by the known log p | cheapest by the known log p | rungs | seconds |
|---|---|---|---|---|---|---|
"""


def programs() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Return every program with its arguments."""
    from tests.foreign.posteriors import POSTERIORS
    from tests.foreign.programs import P

    return {**{name: (program, (x,)) for name, (program, x) in P.items()}, **POSTERIORS}


def one(name: str) -> dict[str, Any]:
    """Climb the ladder of one program in this process."""
    import torch

    import experiments
    import zoo

    torch.set_num_threads(1)
    program, arguments = programs()[name]
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = experiments.recommend(program, args=arguments, tolerance=TOLERANCE, progress=False)
        except zoo.ZooError as error:
            return {"refused": str(error), "seconds": time.perf_counter() - begun}
    return {**brief(found.to_dict()), "seconds": time.perf_counter() - begun}


def brief(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a recommendation as plain data, and what it is judged by."""
    shown = ("guide", "density", "converged", "elbo", "kl_gap")
    rows = [{key: row[key] for key in shown} for row in found["comparison"]["guides"]]
    return {"chosen": found["chosen"], "path": [step["guide"] for step in found["path"]], "comparison": {"guides": rows}}


def truth(name: str) -> float | None:
    """Return log p as it is known without the zoo; ``None`` where it is not."""
    from tests.foreign.posteriors import POSTERIORS
    from tests.foreign.run_posteriors import right
    from tests.foreign.truths import TRUTHS

    if name in TRUTHS:
        return TRUTHS[name][0]
    known = right(name) if name in POSTERIORS else None
    return None if known is None else known[0]


def gaps(name: str, found: dict[str, Any]) -> dict[str, float | None]:
    """Return the gap of each rung that was tried, by the known log p; ``None`` for Markov chains."""
    known = truth(name)
    assert known is not None, "asked for only where it is known"
    rows = found["comparison"]["guides"]
    return {row["guide"]: None if row["elbo"]["value"] is None else known - row["elbo"]["value"] for row in rows}


def cheapest(name: str, found: dict[str, Any]) -> str | None:
    """Return the first rung that was tried whose gap is within the tolerance, by the known log p.

    Draws that say themselves that they can't be relied on do not count.
    """
    rows = {row["guide"]: row for row in found["comparison"]["guides"]}
    known = {guide: gap for guide, gap in gaps(name, found).items() if rows[guide]["density"] or rows[guide]["converged"]}
    return next((guide for guide, gap in known.items() if gap is not None and gap <= TOLERANCE), None)


def near(name: str, found: dict[str, Any]) -> bool:
    """Return whether the choice's gap is within the tolerance by the known log p, or it is Markov chains that agree."""
    chosen = found["chosen"]
    if chosen is None:
        return False
    gap = gaps(name, found)[chosen]
    return gap is None or gap <= TOLERANCE


def row(name: str, found: dict[str, Any]) -> str:
    if "path" not in found:
        what = f"refused: {found['refused']}" if "refused" in found else f"**crashed**: {found['crashed']}"
        return f"| {name} | {what.replace('|', '∣')} | | | | | {found['seconds']:.1f} |"
    chosen = found["chosen"]
    own = next((one for one in found["comparison"]["guides"] if one["guide"] == chosen), None)
    ends = None if own is None else own["kl_gap"]
    gap = "—" if ends is None or ends["upper"] is None else f"{ends['lower']:.3f} … {ends['upper']:.3f}"
    known, first = "", ""
    if truth(name) is not None:
        by = None if chosen is None else gaps(name, found)[chosen]
        known = "—" if by is None else f"{by:.3f}" if by <= TOLERANCE else f"**{by:.3f}**"
        first = cheapest(name, found) or "none"
        first = "the same" if first == chosen else f"`{first}`"
    told = "none" if chosen is None else f"`{chosen}`"
    return f"| {name} | {told} | {gap} | {known} | {first} | {len(found['path'])} | {found['seconds']:.1f} |"


def judged(kept: dict[str, Any]) -> tuple[list[bool], list[bool]]:
    """Return, of programs whose log p is known, whether the choice is near enough, and whether it is the cheapest that is."""
    known = {name: found for name, found in kept.items() if "path" in found and truth(name) is not None}
    return [near(name, found) for name, found in known.items()], [
        near(name, found) and cheapest(name, found) in (found["chosen"], None) for name, found in known.items()]


def write(kept: dict[str, Any]) -> None:
    """Write what was found, a line a program, and the page."""
    close, first = judged(kept)
    summary = (
        f"Of {len(close)} programs whose log p is known, the choice is within the tolerance, or Markov chains that agree, on "
        f"{sum(close)};\nit is the cheapest such rung on {sum(first)}.")
    head = HEAD.format(count=len(kept), tolerance=TOLERANCE, summary=summary)
    PAGE.write_text(head + "\n".join(row(name, found) for name, found in kept.items()) + "\n")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(found, ensure_ascii=False)}" for name, found in kept.items())
    KEPT.write_text(f"{{\n{lines}\n}}\n")


def main(asked: list[str]) -> int:
    names = asked or [*programs()]
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    with ThreadPoolExecutor(PROCESSES) as pool:
        for name, found in zip(names, pool.map(lambda name: apart(name, "tests.foreign.run_recommend"), names), strict=True):
            kept[name] = found
            write(kept)
            print(row(name, found), flush=True)
    kept = {name: kept[name] for name in programs() if name in kept}
    write(kept)
    close, first = judged(kept)
    wrong = sum(close) < NEAR * len(close) or sum(first) < CHEAPEST * len(first)
    return int(wrong or any("crashed" in found for found in kept.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2])))
    else:
        sys.exit(main(sys.argv[1:]))
