"""What benchmarks are made of: that contenders must agree, and that ratios are of runs that follow each other."""

from __future__ import annotations

import pytest

from benchmarks.race import Race, race
from benchmarks.registry import BENCHMARKS
from zoo.registry import load


def test_contenders_run_in_turn_after_they_agreed() -> None:
    order: list[str] = []

    def work(name: str) -> float:
        order.append(name)
        return -3.25

    found = race({"zoo": lambda: work("zoo"), "peer": lambda: work("peer")}, repeats=3)
    assert order == ["zoo", "peer"] * 4
    assert len(found.warm["zoo"]) == len(found.warm["peer"]) == 3
    assert found.values == {"zoo": -3.25, "peer": -3.25}


def test_contenders_that_do_other_work_do_not_race() -> None:
    with pytest.raises(AssertionError, match="expected contenders that agree"):
        race({"zoo": lambda: -1130.26, "peer": lambda: -1130.27})


def test_a_ratio_is_the_median_over_pairs() -> None:
    found = Race({"zoo": 9.0, "peer": 9.0}, {"zoo": (1.0, 2.0, 1.0), "peer": (3.0, 3.0, 4.0)}, {"zoo": 0.0, "peer": 0.0})
    assert found.ratio("peer") == (3.0, 1.5, 4.0)
    assert found.to_dict()["ratios"] == {"peer": (3.0, 1.5, 4.0)}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_there(name: str) -> None:
    assert callable(load(BENCHMARKS[name].path))
