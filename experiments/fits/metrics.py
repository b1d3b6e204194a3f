"""The metrics file of a run: a line of JSON for each step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.errors import ZooError

#: What a step tells besides its number, each a number or nothing.
NUMBERS = ("elbo", "reconstruction", "kl", "gradient_norm", "learning_rate", "seconds")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file; none where there is no file. A last line that was cut short is left out.

    ``bound`` is of what was maximised, and ``objective`` what that is called; ``elbo`` is the same number if it is the ELBO.

    Raises:
        ZooError: a line that is no such row.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().decode(errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break was cut short
        try:
            row = json.loads(line)
            head = {"fit": str(row["fit"]), "step": int(row["step"]), "units": int(row["units"])}
            numbers = {name: _number(row[name]) for name in NUMBERS}
            bound = {"objective": str(row.get("objective", "ELBO")), "bound": _number(row.get("bound", row["elbo"]))}
            rows.append({**head, **bound, **numbers})
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise ZooError(
                f"expected a step's numbers in line {number} of {path}; got {line[:60]!r} ({type(error).__name__}); "
                "remove the line") from None
    return rows


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
