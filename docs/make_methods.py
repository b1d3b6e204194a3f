"""Write docs/methods.md: each method of inference and its options, from the registry."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.inference.options import Options
from experiments.inference.registry import METHODS

PAGE = Path(__file__).parent / "methods.md"
HEAD = """# Methods of inference

`make docs` writes this page from `experiments/inference/registry.py` and the options dataclasses in this registry. `fit`,
`compare`, `zoo fit`, `zoo compare` and specs take the same options. If an option has another name on the command line and in
specs, that name is in brackets. A guide's default method is the first method below that fits the guide.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for name, entry in METHODS.items():
        default = f"{entry.options().limit:,}"
        parts.append(f"## `{name}`: {entry.summary}\n\nUp to {default} steps where `steps` is left out.\n")
        parts.append("| option | type | default | what |\n|---|---|---|---|\n" + "".join(rows(entry.options)))
    return "\n".join(parts)


def rows(options: type[Options]) -> list[str]:
    """Return the rows of a method's table."""
    found = []
    for one in dataclasses.fields(options):
        key = one.metadata["key"]
        called = f"`{one.name}`" + (f" (`{key}`)" if key else "")
        kind = str(one.type).replace("|", "or")
        text = one.metadata["help"] or "Python only: draws a fresh view of a minibatch, e.g. its binarisation."
        found.append(f"| {called} | {kind} | {'—' if one.default is None else one.default} | {text} |\n")
    return found


if __name__ == "__main__":
    PAGE.write_text(page())
