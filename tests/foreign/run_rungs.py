"""Hold every rung to the reference draws of posteriordb, and write how far each is from them to docs/rungs.md.

``python -m tests.foreign.run_rungs [NAME ...]``. The exit code is 1 where a rung crashes, or ``nuts`` has converged and is off.
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
from tests.foreign.run_posteriors import DEVIATIONS, MEANS, errors

PAGE = Path(__file__).parents[2] / "docs" / "rungs.md"
KEPT = PAGE.with_suffix(".json")
#: The rungs, by how they are called on the page.
RUNGS = {
    "laplace": "full_rank@laplace", "pathfinder": "full_rank@pathfinder", "full_rank": "full_rank",
    "psis": "draws(full_rank)@psis", "ais": "draws(full_rank)@ais", "nuts": "draws(full_rank)@nuts"}
#: Posteriors whose densities solve differential equations in Python: each rung would take many minutes.
SLOW = ("hudson_lynx_hare-lotka_volterra", "one_comp_mm_elim_abs-one_comp_mm_elim_abs")

HEAD = """# Every rung on the posteriors of posteriordb

`make foreign` writes this page. Each rung is fitted once to each of {count} posteriors of
[posteriordb](https://github.com/stan-dev/posteriordb) (BSD-3), as bare Pyro programs (`tests/foreign/posteriors.py`), and
compared with 10,000 reference draws: the largest error of a mean in standard deviations, the range of the errors of standard
deviations, and seconds on a busy machine. Bold is what is off by more than {means} deviations of a mean, or {deviations:.0%} of
a deviation. A star marks a rung that itself says that it has not converged.

{summary}

| posterior | {rungs} |
|---|{dashes}
"""


def one(name: str) -> dict[str, Any]:
    """Fit every rung to one posterior in this process."""
    import torch

    import experiments
    import zoo
    from tests.foreign.posteriors import POSTERIORS, REFERENCE

    torch.set_num_threads(1)
    program, arguments = POSTERIORS[name]
    model, x = zoo.as_model(program), zoo.arguments(program, *arguments)
    found: dict[str, Any] = {}
    for called, text in RUNGS.items():
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                done = experiments.fit(model, text, x, progress=False)
                means, deviations = errors(model, done.guide, x, REFERENCE[name], draws=4096)
            except zoo.ZooError as error:
                found[called] = {"failed": str(error), "seconds": time.perf_counter() - begun}
                continue
        found[called] = {
            "seconds": done.seconds, "evaluations": done.evaluations, "converged": done.converged, "means": means,
            "deviations": deviations}
    return found


def near(found: dict[str, Any]) -> bool:
    """Return whether a rung is near the reference."""
    if "failed" in found:
        return False
    low, high = found["deviations"]
    return bool(found["means"] < MEANS and max(-low, high) < DEVIATIONS)


def cell(found: dict[str, Any]) -> str:
    """Return what the page shows of one rung on one posterior."""
    if "failed" in found:
        return f"refused, {found['seconds']:.1f} s"
    low, high = found["deviations"]
    words = f"{found['means']:.2f}, {low:+.0%} to {high:+.0%}"
    return (words if near(found) else f"**{words}**") + ("" if found["converged"] else "\\*") + f", {found['seconds']:.1f} s"


def summary(kept: dict[str, Any]) -> str:
    """Return on how many posteriors each rung is near, and how long it took."""
    rows = [found for found in kept.values() if "crashed" not in found]
    lines = []
    for called, text in RUNGS.items():
        told = [row[called] for row in rows]
        seconds = sorted(one["seconds"] for one in told)
        close, says = sum(map(near, told)), sum(bool(one.get("converged")) for one in told)
        both = sum(near(one) and bool(one.get("converged")) for one in told)
        lines.append(
            f"- `{text}`: near on {close} of {len(told)}; of {says} that say that they have converged {both} are near; "
            f"median {seconds[len(seconds) // 2]:.1f} s")
    return "\n".join(lines)


def row(name: str, found: dict[str, Any]) -> str:
    if "crashed" in found:
        return f"| {name} | **crashed**: {found['crashed']} |" + " |" * (len(RUNGS) - 1)
    return f"| {name} | " + " | ".join(cell(found[called]) for called in RUNGS) + " |"


def failed(found: dict[str, Any]) -> bool:
    """Return whether what came is wrong: chains that agree are the reference, so they must be near."""
    return "crashed" in found or (bool(found["nuts"].get("converged")) and not near(found["nuts"]))


def main(asked: list[str]) -> int:
    from tests.foreign.posteriors import POSTERIORS

    names = asked or [name for name in POSTERIORS if name not in SLOW]
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    with ThreadPoolExecutor(PROCESSES) as pool:
        for name, found in zip(names, pool.map(lambda name: apart(name, "tests.foreign.run_rungs"), names), strict=True):
            kept[name] = found
            print(row(name, found), flush=True)
    kept = {name: kept[name] for name in POSTERIORS if name in kept}
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    head = HEAD.format(
        count=len(kept), means=MEANS, deviations=DEVIATIONS, summary=summary(kept), rungs=" | ".join(RUNGS),
        dashes="---|" * len(RUNGS))
    PAGE.write_text(head + "\n".join(row(name, found) for name, found in kept.items()) + "\n")
    return int(any(map(failed, kept.values())))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2])))
    else:
        sys.exit(main(sys.argv[1:]))
