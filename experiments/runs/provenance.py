"""The provenance of a run: data, code and versions, and which of them have changed since."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from experiments.inference.registry import METHODS
from experiments.inference.saved import data_digest
from experiments.runs.programs import is_own, source_digest
from experiments.runs.spec import Spec
from experiments.runtime.files import digest
from guides.registry import FAMILIES
from guides.spec import parse
from zoo.datasets import Dataset
from zoo.registry import DATASETS, MODELS, Registry

#: What is recorded of what a run stands on, by the name that people know and the name it is installed under.
PACKAGES: Mapping[str, str] = {
    "torch": "torch", "pyro": "pyro-ppl", "arviz": "arviz-base", "numpy": "numpy", "scipy": "scipy", "latent_zoo": "latent-zoo"}
#: The packages whose sources are this library.
SOURCES = ("zoo", "guides", "experiments")


def provenance(data: Dataset, spec: Spec) -> dict[str, Any]:
    """Return the ``record`` of a run of ``spec``: when and with what it is begun, as plain values."""
    own = {"program_sha256": source_digest(spec.model)} if is_own(spec.model) else {}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"), "data_name": data.name,
        "data_sha256": data_digest(data.x), "threads": torch.get_num_threads(), "git_commit": commit(),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES},
                     **{name: version(name) for name in plugged(spec)}}, **own,
        "code": {name: code_digest(name) for name in SOURCES}}


def plugged(spec: Spec) -> list[str]:
    """Return the other packages whose models, data sets, guides or methods a spec names, see :class:`zoo.registry.Registry`."""
    written = [parse(guide) for guide in (*spec.guides, *filter(None, [spec.train_with]))]
    used: list[tuple[Registry[Any], str]] = [(MODELS, spec.model), (DATASETS, spec.data), (METHODS, spec.method or "")]
    used += [(FAMILIES, one.family) for one in written] + [(METHODS, one.method) for one in written]
    return sorted({registry.source(name) for registry, name in used} - {""})


def changes(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words what ``now`` has other than a run's ``record``: data, versions or code; empty where nothing changed."""
    found = []
    if record.get("data_sha256") != now["data_sha256"]:
        found.append(f"the data '{now['data_name']}'")
    if record.get("program_sha256") != now.get("program_sha256"):
        found.append("the file of the program")
    for name, before in _table(record, "versions").items():
        if now["versions"].get(name) != before:
            found.append(f"{name} ({before} then, {now['versions'].get(name, 'none')} now)")
    changed = [name for name, before in _table(record, "code").items() if now["code"].get(name) != before]
    if changed:
        then = f", at commit {str(record['git_commit'])[:12]} then" if record.get("git_commit") else ""
        found.append(f"the code of {', '.join(changed)}{then}")
    return found


def _table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    return value if isinstance(value, Mapping) else {}


@cache
def installed(name: str) -> str:
    """Return the installed version of one of :data:`PACKAGES`."""
    try:
        return version(PACKAGES[name])
    except PackageNotFoundError:
        return "unknown"


@cache
def code_digest(package: str) -> str:
    """Return the SHA-256 of a package's sources, names included."""
    folder = Path(__file__).parents[2] / package
    files = sorted(path for path in folder.rglob("*.py"))
    return digest("".join(f"{path.relative_to(folder)} {digest(path.read_bytes())}\n" for path in files).encode())


@cache
def commit() -> str:
    """Return the commit that this library's sources are checked out at; empty where they are in no repository."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        known = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, timeout=5,
            check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if known.returncode == 0 else ""  # a virtual environment may lie in somebody else's
