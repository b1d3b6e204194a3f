"""Every test asserts something, read off the tests themselves."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from tests import ROOT

#: What asserts by itself: of pytest's, for one; functions of numpy and torch that do are called assert_….
KNOWN = {"raises", "warns", "fail"}

#: A function: the module that it is in, and its name.
Function = tuple[str, str]


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def trees() -> dict[str, ast.Module]:
    return {module_of(file): ast.parse(file.read_text()) for file in (ROOT / "tests").rglob("*.py")}


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def called(node: ast.FunctionDef) -> set[str]:
    """The names that a function calls, of methods their own."""
    calls = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def asserting(found: Mapping[str, ast.Module]) -> set[Function]:
    """The functions that assert something, themselves or through functions of the tests that they call."""
    homes: dict[str, dict[str, Function]] = {}
    for module, tree in found.items():
        homes[module] = {node.name: (module, node.name) for node in functions(tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                homes[module].update({alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names})
    every = {(module, node.name): node for module, tree in found.items() for node in functions(tree)}
    done = {one for one, node in every.items() if asserts(node)}
    left = {one: {homes[one[0]].get(name) for name in called(node)} for one, node in every.items() if one not in done}
    while more := {one for one, helpers in left.items() if helpers & done} - done:
        done |= more
    return done


def asserts(node: ast.FunctionDef) -> bool:
    """Whether a function asserts something itself."""
    itself = any(isinstance(part, ast.Assert) for part in ast.walk(node))
    return itself or any(name in KNOWN or name.startswith("assert_") for name in called(node))


def without(found: Mapping[str, ast.Module]) -> list[Function]:
    done = asserting(found)
    every = [(module, node.name) for module, tree in found.items() for node in functions(tree) if node.name.startswith("test_")]
    return [one for one in every if one not in done]


def test_every_test_asserts_something() -> None:
    assert without(trees()) == []


def test_assertions_are_found_through_helpers_of_this_module_and_imported_ones() -> None:
    here = "from tests.there import far\n" + "".join(f"def test_{name}(): {body}\n" for name, body in {
        "itself": "assert 1", "through": "near()", "imported": "far()", "raising": "\n with pytest.raises(E): f()",
        "nothing": "f()", "same_name": "elsewhere()"}.items()) + "def near(): far()\n"
    there = "def far(): assert 1\ndef elsewhere(): assert 1\n"
    found = without({"tests.here": ast.parse(here), "tests.there": ast.parse(there)})
    assert found == [("tests.here", "test_nothing"), ("tests.here", "test_same_name")]
