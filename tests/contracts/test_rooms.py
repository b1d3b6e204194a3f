"""The rooms: which package may import which, read off the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

#: The rooms of each package, from the lowest to the highest: none imports one that comes after it.
ROOMS: Mapping[str, Sequence[str]] = {
    "zoo": (
        "errors", "registry", "data", "distributions", "nn", "program", "structure", "model", "bare", "models",
        "construct",
        "datasets"),
    "guides": (
        "registry", "spec", "families", "amortisation", "guide", "blocks", "model_based", "drawn", "pyro_guide", "construct"),
    "experiments": (
        "runtime", "fits", "optimisers", "samplers", "log_evidence", "inference", "diagnostics", "comparison", "reporting",
        "runs", "studies", "cli"),
}
PACKAGES = tuple(ROOMS)
#: Entries that a folder may have, files and folders alike.
FULL = 14


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def files() -> dict[str, Path]:
    return {module_of(file): file for package in PACKAGES for file in (ROOT / package).rglob("*.py")}


class Imports(ast.NodeVisitor):
    """The modules of this project that a file imports, at its top or later; those for the type checker alone left out."""

    def __init__(self, file: Path):
        self.found: set[str] = set()
        self.visit(ast.parse(file.read_text()))

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names if alias.name in files()}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            named = f"{node.module}.{alias.name}"
            self.found |= {name for name in (named if named in files() else node.module,) if name in files()}


@cache
def imports() -> dict[str, set[str]]:
    return {name: Imports(file).found - {name} for name, file in files().items()}


def arrows() -> list[tuple[str, str]]:
    return [(one, other) for one, others in imports().items() for other in sorted(others)]


def package_of(module: str) -> str:
    return module.split(".")[0]


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def test_imports_are_found() -> None:
    assert "zoo.program.run" in imports()["zoo.model"]
    assert len(arrows()) > 500


def test_zoo_knows_no_guides_and_guides_no_experiments() -> None:
    up = [(a, b) for a, b in arrows() if PACKAGES.index(package_of(b)) > PACKAGES.index(package_of(a))]
    assert up == []


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_are_those_of_the_table(package: str) -> None:
    found = {room_of(name) for name in files() if package_of(name) == package and name != package}
    assert found == set(ROOMS[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_imports_a_higher_one(package: str) -> None:
    level = {room: i for i, room in enumerate(ROOMS[package])}
    inside = [(a, b) for a, b in arrows() if package_of(a) == package_of(b) == package and package not in (a, b)]
    assert [(a, b) for a, b in inside if level[room_of(b)] > level[room_of(a)]] == []


def test_no_circle_of_files() -> None:
    left = {name: set(others) for name, others in imports().items()}
    while done := [name for name, others in left.items() if not others & left.keys()]:
        for name in done:
            del left[name]
    assert sorted(left) == []


def test_tests_lie_in_folders_of_what_they_are_of() -> None:
    places = {file.parent.relative_to(ROOT / "tests") for file in (ROOT / "tests").rglob("test_*.py")}
    assert {place for place in places if not (ROOT / place).is_dir()} == {Path("contracts"), Path("foreign")}


def test_no_folder_is_too_full() -> None:
    read = [file for place in (*PACKAGES, "benchmarks", "tests") for file in (ROOT / place).rglob("*.py")]
    folders = {file.parent for file in read}
    entries = {folder: [entry for entry in folder.iterdir() if entry.name != "__pycache__"] for folder in folders}
    assert {str(folder): len(inside) for folder, inside in entries.items() if len(inside) > FULL} == {}
