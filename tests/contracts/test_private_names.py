"""Private names of other packages: those in use are listed here, each with a test that fails when it changes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache

import pytest

from tests import ROOT

PACKAGES = ("zoo", "guides", "experiments")
#: Name: the file and the test of what is done by it.
LISTED: Mapping[str, tuple[str, str]] = {
    # A tensor that is followed through all operations of a program.
    "_make_wrapper_subclass": ("zoo/structure/test_affine.py", "test_each_affine_piece_is_found"),
    "torch.utils._python_dispatch": ("zoo/structure/test_affine.py", "test_each_affine_piece_is_found"),
    # Recorded runs: constants by reference, and all that a module is made of.
    "_allow_non_fake_inputs": ("zoo/program/test_recording.py", "test_what_make_fx_needs_of_its_private_names"),
    "_modules": ("zoo/program/test_recording.py", "test_what_else_a_module_is_made_of_is_seen_to_change"),
    "_version": ("zoo/program/test_recording.py", "test_a_setting_of_whatever_type_is_seen_to_change"),
    # Whether a module's forward is all that a call of it does.
    "_pyro_samples": ("zoo/structure/test_quadratic.py", "test_parameters_drawn_by_the_module_still_are_latents"),
    # The mask of a distribution.
    "_mask": ("zoo/program/sites/test_masks.py", "test_pyro_keeps_the_mask_of_a_distribution_where_it_is_looked_for"),
    # What an AutoGuide makes on its first call.
    "_setup_prototype": ("guides/test_pyro_guides.py", "test_stock_elbo_agrees"),
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def own() -> set[str]:
    """Names that this project defines: functions, classes, variables, and attributes of its objects; not those listed."""
    found: set[str] = set()
    for node in (node for tree in trees() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found - LISTED.keys()


def used() -> Iterator[str]:
    """Private attributes, keywords and modules that the code uses."""
    for node in (node for tree in trees() for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute) and private(node.attr):
            yield node.attr
        elif isinstance(node, ast.keyword) and private(node.arg or ""):
            yield str(node.arg)
        elif isinstance(node, ast.ImportFrom) and any(map(private, (node.module or "").split("."))):
            yield str(node.module)


def test_private_names_of_others_are_those_listed() -> None:
    assert set(used()) - own() == LISTED.keys()


@pytest.mark.parametrize("name", LISTED)
def test_each_has_a_test(name: str) -> None:
    file, test = LISTED[name]
    assert f"def {test}(" in (ROOT / "tests" / file).read_text()
