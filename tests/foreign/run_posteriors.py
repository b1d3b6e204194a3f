"""Compare two guides on each posterior of posteriordb, and write how far they are from the references to docs/posteriordb.md.

``python -m tests.foreign.run_posteriors [NAME ...]``. The exit code is 1 where a program crashes, an exact log normaliser is
outside the interval by more than chance, or a ``full_rank`` guide of a regression is off its reference.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tests.foreign.run import GUIDES, PROCESSES, apart, elbos_of, inside, interval

PAGE = Path(__file__).parents[2] / "docs" / "posteriordb.md"
KEPT = PAGE.with_suffix(".json")
#: Draws of a guide; how far means may be off, in standard deviations, and deviations, as a share.
DRAWS, MEANS, DEVIATIONS = 20_000, 0.1, 0.1

HEAD = """# The posteriors of posteriordb

`make foreign` writes this page. The command runs `compare(program, …, guides=["mean_field", "full_rank"])` once on each of
{count} posteriors of [posteriordb](https://github.com/stan-dev/posteriordb) (BSD-3), as bare Pyro programs
(`tests/foreign/posteriors.py`), with flat priors where Stan's have none. ELBO and log p, with flat priors the log normaliser
log ∫ p(y, z) dz, are in nats; seconds are those of one run, on a busy machine. The last two columns compare
{draws:,} draws of `full_rank` with the 10,000 reference draws: the largest error of a mean in standard deviations, and the
range of the errors of standard deviations. The right log p is exact for 22 regressions, and else by importance sampling about
the reference draws.

{summary}

| posterior | seconds | ELBO mean_field | ELBO full_rank | log p | right | k̂ full_rank | means off by | deviations off by |
|---|---|---|---|---|---|---|---|---|
"""

FOOT = """
Where an interval, or `full_rank`, is off, and why:

{reasons}
"""


def one(name: str) -> dict[str, Any]:
    """Compare on one posterior in this process."""
    import torch

    import experiments
    import zoo
    from tests.foreign.posteriors import POSTERIORS, REFERENCE

    torch.set_num_threads(1)
    program, arguments = POSTERIORS[name]
    begun = time.perf_counter()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        table = experiments.compare(program, args=arguments, guides=GUIDES, progress=False)
    seconds = time.perf_counter() - begun
    said = [str(w.message) for w in seen if issubclass(w.category, zoo.ZooWarning)]
    means, deviations = errors(table.model, table.guide("full_rank"), table.x, REFERENCE[name])
    return {"table": table.to_dict(), "seconds": seconds, "warnings": said, "means": means, "deviations": deviations}


def errors(model: Any, guide: Any, x: Any, reference: dict[str, Any], draws: int = DRAWS) -> tuple[float, list[float]]:
    """Return the largest error of a guide's means, in reference standard deviations, and the range of those of deviations."""
    import experiments

    tree = experiments.posterior(model, guide, x, draws=draws, groups=["posterior"])
    found: dict[str, np.ndarray] = {}
    for name, values in tree["posterior"].data_vars.items():
        columns = values.values[0].reshape(draws, -1).T
        found |= {f"{name}[{i + 1}]" if values.ndim > 2 else str(name): column for i, column in enumerate(columns)}
    drawn = np.stack([found[name] for name in reference["names"]], 1)
    means = (drawn.mean(0) - reference["mean"]) / reference["sd"]
    deviations = drawn.std(0) / reference["sd"] - 1
    return float(np.abs(means).max()), [float(deviations.min()), float(deviations.max())]


def exact(name: str) -> float | None:
    """Return the exact log normaliser; ``None`` where it is not known."""
    from tests.foreign.posteriors import REFERENCE

    found: float | None = REFERENCE[name].get("log_normaliser")
    return found


def right(name: str) -> tuple[float, float] | None:
    """Return log p as it is known without the zoo, with its standard error."""
    from tests.foreign.truths import POSTERIORS

    value = exact(name)
    return POSTERIORS.get(name) if value is None else (value, 0.0)


def told(name: str, found: dict[str, Any]) -> str:
    """Return the right log p in words, and whether the interval has it."""
    known = right(name)
    if known is None:
        return ""
    value, se = known
    words = f"{value:.3f} ± {se:.3f}" if se else f"{value:.4f}"
    if "table" not in found:
        return words
    evidence = found["table"]["log_evidence"]
    return f"{words}, inside" if inside(evidence, value, 3 * se + 1e-3) else f"**{words}, outside**"


def agrees(evidence: dict[str, Any], value: float) -> bool:
    """Return whether an interval of 95% holds a value, or misses it by no more than 3 standard errors from its middle."""
    if inside(evidence, value, 1e-3):
        return True
    return evidence["upper"] is not None and abs(0.5 * (evidence["lower"] + evidence["upper"]) - value) < 3 * evidence["se"]


def near(found: dict[str, Any]) -> bool:
    """Return whether full_rank is near the reference."""
    low, high = found["deviations"]
    return bool(found["means"] < MEANS and max(-low, high) < DEVIATIONS)


def failed(name: str, found: dict[str, Any]) -> bool:
    """Return whether what came of a posterior is wrong: the regressions, whose log normaliser is exact, are all but normal."""
    value = exact(name)
    if value is None or "table" not in found:
        return "table" not in found
    return not (agrees(found["table"]["log_evidence"], value) and near(found))


def row(name: str, found: dict[str, Any]) -> str:
    if "table" not in found:
        crash = found["crashed"].replace("|", "∣")
        return f"| {name} | {found['seconds']:.0f} | **crashed**: {crash} | | | {told(name, found)} | | | |"
    table, (low, high) = found["table"], found["deviations"]
    khat = table["guides"][-1]["khat"]
    means = f"{found['means']:.2f}" if found["means"] < MEANS else f"**{found['means']:.2f}**"
    deviations = f"{low:+.0%} to {high:+.0%}" if max(-low, high) < DEVIATIONS else f"**{low:+.0%} to {high:+.0%}**"
    return (
        f"| {name} | {found['seconds']:.0f} | {' | '.join(elbos_of(table))} | {interval(table['log_evidence'])} | "
        f"{told(name, found)} | "
        f"{'—' if khat is None else f'{khat:.2f}'} | {means} | {deviations} |")


def summary(kept: dict[str, Any]) -> str:
    known = [inside(found["table"]["log_evidence"], value, 1e-3) for name, found in kept.items()
             if (value := exact(name)) is not None and "table" in found]
    close = [near(found) for found in kept.values() if "table" in found]
    return (
        f"{known.count(True)} of {len(known)} exact log normalisers lie in the interval, which is of 95%.\nOn "
        f"{close.count(True)} of {len(close)} posteriors all means of `full_rank` are within {MEANS} standard deviations, and "
        f"all standard deviations within {DEVIATIONS:.0%}.")


def main(asked: list[str]) -> int:
    from tests.foreign.posteriors import POSTERIORS
    from tests.foreign.truths import SHAPES

    names = asked or [*POSTERIORS]
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    with ThreadPoolExecutor(PROCESSES) as pool:
        for name, found in zip(names, pool.map(lambda name: apart(name, "tests.foreign.run_posteriors"), names), strict=True):
            kept[name] = found
            print(row(name, found), flush=True)
    kept = {name: kept[name] for name in POSTERIORS if name in kept}
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    rows = "\n".join(row(name, found) for name, found in kept.items()) + "\n"
    off = [name for name, found in kept.items() if "table" in found and ("**" in row(name, found))]
    reasons = "\n".join(f"- `{name}`: {SHAPES.get(name, 'not known')}" for name in off)
    head = HEAD.format(count=len(kept), draws=DRAWS, summary=summary(kept))
    PAGE.write_text(head + rows + (FOOT.format(reasons=reasons) if off else ""))
    return int(any(failed(name, found) for name, found in kept.items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2])))
    else:
        sys.exit(main(sys.argv[1:]))
