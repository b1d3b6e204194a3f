"""Compare two guides on each foreign program once, in a process of its own, and write what came of it to docs/programs.md.

``python -m tests.foreign.run [NAME ...]``. What is known of each program is in ``truths.py``. Nothing here is timed or
asserted by the tests; a program that crashes, or whose known log p lies outside the interval, makes the exit code 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.foreign.truths import TRUTHS

GUIDES = ("mean_field", "full_rank")
#: Seconds that one program may take; and processes at once.
LIMIT, PROCESSES = 600, 2
PAGE = Path(__file__).parents[2] / "docs" / "programs.md"
KEPT = Path(__file__).parents[2] / "docs" / "programs.json"

HEAD = """# Programs that know nothing of the zoo

`make foreign` writes this page. The command runs `compare(program, x, guides=["mean_field", "full_rank"])` once on each of
{count} bare Pyro programs (`tests/foreign/programs.py`), written as in Pyro's tutorials, each in its own process. Some data are
from [posteriordb](https://github.com/stan-dev/posteriordb) (BSD-3). ELBO and log p are in nats; seconds are those of two
programs at a time on two cores. For {known} of the programs the right log p is known without the zoo.

{summary}

| program | outcome | seconds | ELBO mean_field | ELBO full_rank | log p | kind | right |
|---|---|---|---|---|---|---|---|
"""


def one(name: str) -> dict[str, Any]:
    """Compare on one program in this process."""
    import torch

    import experiments
    import guides
    import zoo
    from tests.foreign.programs import P

    torch.set_num_threads(1)
    program, x = P[name]
    begun = time.perf_counter()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            fits = guides.fitting_guides(zoo.as_model(program).facts(x))
            asked = [guide for guide in GUIDES if guide in fits]  # none where all latents are discrete: then the default
            table = experiments.compare(program, x, guides=asked or None, progress=False).to_dict()
        except zoo.ZooError as error:
            return {"refused": str(error), "seconds": time.perf_counter() - begun}
    said = [str(w.message) for w in seen if issubclass(w.category, zoo.ZooWarning)]
    return {"table": table, "seconds": time.perf_counter() - begun, "warnings": said}


def apart(name: str, script: str = "tests.foreign.run") -> dict[str, Any]:
    """Compare on one program in a process of its own, by the ``script`` that knows it."""
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", script, "--one", name], capture_output=True, text=True, timeout=LIMIT,
            check=False, cwd=PAGE.parents[1])
    except subprocess.TimeoutExpired:
        return {"crashed": f"not done after {LIMIT} s", "seconds": time.perf_counter() - begun}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"crashed": last, "seconds": time.perf_counter() - begun}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def holds(name: str, found: dict[str, Any]) -> bool | None:
    """Return whether the interval of log p holds the right one, within three of its standard errors; ``None``: unknown."""
    if name not in TRUTHS or "table" not in found:
        return None
    value, se, _ = TRUTHS[name]
    return inside(found["table"]["log_evidence"], value, 3 * se + 1e-3)


def inside(evidence: dict[str, Any], value: float, error: float) -> bool:
    """Return whether an interval of log p, wider by an ``error`` on both sides, holds a value."""
    upper = float("inf") if evidence["upper"] is None else evidence["upper"]
    return bool(evidence["lower"] - error <= value <= upper + error)


def row(name: str, found: dict[str, Any]) -> str:
    right = f"{TRUTHS[name][0]:.3f}" if name in TRUTHS else ""
    seconds = f"{found['seconds']:.0f}"
    if "table" not in found:
        what = f"refused: {found['refused']}" if "refused" in found else f"**crashed**: {found['crashed']}"
        return f"| {name} | {what.replace('|', '∣')} | {seconds} | | | | | {right} |"
    evidence = found["table"]["log_evidence"]
    told = {True: f"{right}, inside", False: f"**{right}, outside**", None: right}[holds(name, found)]
    elbos = " | ".join(elbos_of(found["table"]))
    return f"| {name} | accepted | {seconds} | {elbos} | {interval(evidence)} | {evidence['kind']} | {told} |"


def elbos_of(table: dict[str, Any]) -> list[str]:
    """Return each guide's ELBO in words."""
    return [f"{g['elbo']['value']:.2f}{'' if g['converged'] else ' (not converged)'}" for g in table["guides"]]


def interval(evidence: dict[str, Any]) -> str:
    """Return log p and its interval in words."""
    value = "" if evidence["value"] is None else f"{evidence['value']:.3f} "
    upper = "∞" if evidence["upper"] is None else f"{evidence['upper']:.3f}"
    return f"{value}[{evidence['lower']:.3f}, {upper}]"


def main(asked: list[str]) -> int:
    from tests.foreign.programs import P

    names = asked or [*P]
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    with ThreadPoolExecutor(PROCESSES) as pool:
        for name, found in zip(names, pool.map(apart, names), strict=True):
            kept[name] = found
            print(row(name, found), flush=True)
    kept = {name: kept[name] for name in P if name in kept}
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    kinds = ["accepted" if "table" in f else "refused" if "refused" in f else "crashed" for f in kept.values()]
    known = [holds(name, found) for name, found in kept.items()]
    summary = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("accepted", "refused", "crashed")) + (
        f". Of {sum(each is not None for each in known)} with a known log p, {known.count(True)} have it in the interval.")
    head = HEAD.format(count=len(P), known=sum(name in TRUTHS for name in P), summary=summary)
    PAGE.write_text(head + "\n".join(row(name, found) for name, found in kept.items()) + "\n")
    return int("crashed" in kinds or False in known)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2])))
    else:
        sys.exit(main(sys.argv[1:]))
