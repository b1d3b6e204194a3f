"""Every test leaves the process as it found it: nothing of ours is global."""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import pytest
import torch
from torch.distributions import Distribution

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of one model or study in one process, so that each is fitted once."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        name = params.get("name")
        if isinstance(name, str):
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(autouse=True)
def no_runs_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands leave a run directory behind only where a test says so: with --out, or by setting ZOO_RUNS."""
    monkeypatch.setenv("ZOO_RUNS", "")


@pytest.fixture(autouse=True)
def nothing_global() -> Iterator[None]:
    before = (torch.get_default_dtype(), Distribution._validate_args, pyro.settings.get())
    pyro.clear_param_store()
    yield
    after = (torch.get_default_dtype(), Distribution._validate_args, pyro.settings.get())
    assert before == after, "a default was changed behind the user's back"
