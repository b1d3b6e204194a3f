"""What benchmarks are made of: contenders that agree, ratios of runs that follow each other, goals, and the page."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import zoo
from benchmarks.__main__ import main
from benchmarks.contenders import Cold, Task, calls, processes
from benchmarks.machine import UNSET, describe, environment
from benchmarks.race import Race, in_turn, race, slope
from benchmarks.registry import BENCHMARKS
from benchmarks.results import Curve, Ratio, Result, Row, Table, result_of
from benchmarks.show import cells, draw, number
from benchmarks.suites.elbo import seek, stops
from benchmarks.suites.layers import layer
from benchmarks.suites.normals import FEW, Case, Judge
from tests import ROOT
from zoo.registry import load

ROW = Row("case", "NumPyro", {"zoo": 0.5, "NumPyro": 3.0}, Ratio(6.0, 5.0, 7.0), 5.0, "log joint to 1e-15",
          Ratio(15.0, 14.0, 16.0), {"zoo": 2.0, "NumPyro": 30.0}, 20.0)
MACHINE = {"processor": "a chip", "cores": 2, "threads": 2, "memory": "8 GiB", "system": "Linux", "python": "3.12.0",
           "torch": "2.6.0", "date": "2026-01-31"}
FOUND = Result(
    [ROW], [Curve("case", -31.7, {"zoo": [(0.1, -40.0), (0.5, -31.6)], "NumPyro": [(1.0, -50.0), (3.0, -31.6)]})],
    [Table("shares", ("case", "density"), [["vae", "26%"]])], {"best": -31.6}, "time-to-elbo", "Time to the best.", MACHINE)


def test_contenders_run_in_turn_after_they_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.race.TURN", -1.0)
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


def test_a_judge_makes_a_number_of_what_a_contender_returns() -> None:
    found = race({"zoo": lambda: [1.0, 2.0], "peer": lambda: [3.0]}, repeats=1, judge=sum)
    assert found.values == {"zoo": 3.0, "peer": 3.0}


def test_runs_of_one_index_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.race.TURN", -1.0)
    order: list[int] = []
    in_turn({1: lambda: order.append(1), 2: lambda: order.append(2)}, 2)
    assert order == [1, 2, 1, 2]


def test_short_work_is_repeated_until_its_turn_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([0.75, 0.25, 0.5, 0.75, 1.25])
    monkeypatch.setattr("benchmarks.race.timed", lambda work: (next(given), work()))
    order: list[str] = []
    found = in_turn({"short": lambda: order.append("short"), "long": lambda: order.append("long")}, 1)
    assert order == ["short"] * 4 + ["long"]  # the first of the short ones does not count
    assert found == {"short": (pytest.approx(0.5),), "long": (1.25,)}


def test_a_long_run_that_took_less_is_not_believed() -> None:
    with pytest.raises(AssertionError, match="expected longer runs to take longer"):
        slope((3.0, 1.0), (1.0, 1.5), 2)


def test_a_ratio_is_the_median_over_pairs() -> None:
    found = Race({"zoo": 9.0, "peer": 9.0}, {"zoo": (1.0, 2.0, 1.0), "peer": (3.0, 3.0, 4.0)}, {"zoo": 0.0, "peer": 0.0})
    assert found.ratio("peer") == (3.0, 1.5, 4.0)
    assert found.to_dict()["ratios"] == {"peer": (3.0, 1.5, 4.0)}
    [row] = found.rows("case", "to 1e-8", {"peer": (2.0, None)}, 1e3, "ms", note="a note")
    assert row.warm == Ratio(3.0, 1.5, 4.0)
    assert row.spent == {"zoo": 1000.0, "peer": 3000.0}
    assert row.cold == Ratio(1.0, 1.0, 1.0)
    assert row.spent_cold == {"zoo": 9.0, "peer": 9.0}
    assert (row.met, row.unit, row.note) == (True, "ms", "a note")


def test_a_race_without_cold_runs_has_no_cold_ratio() -> None:
    [row] = Race({}, {"zoo": (1.0,), "peer": (3.0,)}, {}).rows("case", "", {})
    assert (row.cold, row.spent_cold, row.met) == (None, {}, None)


@pytest.mark.parametrize(("warm", "cold", "met"), [
    (5.0, 20.0, False), (5.0, 15.0, True), (7.0, None, False), (None, 10.0, True), (None, None, None)])
def test_goals_are_judged_by_the_median(warm: float | None, cold: float | None, met: bool | None) -> None:
    assert Row("case", "peer", {}, Ratio(6.0, 1.0, 9.0), warm, "", Ratio(15.0, 1.0, 99.0), {}, cold).met is met


def test_a_goal_without_a_ratio_is_missed() -> None:
    assert Row("case", "peer", {}, None, 5.0, "").met is False


def test_results_survive_their_files(tmp_path: Path) -> None:
    FOUND.write(tmp_path / "made" / "it.json")
    read = Result.read(tmp_path / "made" / "it.json")
    assert read.rows == [ROW]
    assert read.curves == FOUND.curves
    assert read.machine == MACHINE
    assert read.tables[0].rows == [["vae", "26%"]]


def test_plain_data_are_the_facts_of_a_result() -> None:
    assert result_of({"cost": 0.01}).facts == {"cost": 0.01}
    assert result_of(FOUND) is FOUND


def test_a_figure_is_drawn_of_curves(tmp_path: Path) -> None:
    draw(FOUND, tmp_path / "it.png")
    assert (tmp_path / "it.png").stat().st_size > 5_000


def test_cells_tell_ratios_and_goals() -> None:
    assert cells(ROW)[2:5] == ("≥ 5 warm, ≥ 20 cold", "6 (5–7)", "15 (14–16)")
    assert cells(ROW)[-1] == "no"
    assert number(0.0004567) == "0.000457"


def test_the_page_is_made_of_files_alone(tmp_path: Path) -> None:
    FOUND.write(tmp_path / "benchmarks" / "time-to-elbo.json")
    page = tmp_path / "benchmarks.md"
    _maker().main(tmp_path / "benchmarks", page)
    text = page.read_text()
    assert "| case | NumPyro | ≥ 5 warm, ≥ 20 cold | 6 (5–7) | 15 (14–16) |" in text
    assert "0 of 1 goals are met." in text
    assert "a chip, 2 cores, 2 threads used, 8 GiB of memory, Linux; python 3.12.0, torch 2.6.0; 2026-01-31" in text
    assert "Time to the best." in text
    assert "- case: log joint to 1e-15" in text
    assert "![ELBO against seconds](benchmarks/time-to-elbo.png)" in text
    assert (tmp_path / "benchmarks" / "time-to-elbo.png").exists()
    assert "| vae | 26% |" in text


def test_results_of_several_machines_say_which(tmp_path: Path) -> None:
    other = Result([], facts={"cost": 0.1}, name="report", about="Pages.", machine={**MACHINE, "processor": "another"})
    for found in (FOUND, other):
        found.write(tmp_path / f"{found.name}.json")
    _maker().main(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "- time-to-elbo: a chip" in text
    assert "- report: another" in text
    assert '"cost": 0.1' in text


@pytest.mark.parametrize(("arguments", "message"), [
    (["nope"], "unknown benchmark 'nope'"), (["--repeats", "0"], "expected --repeats from 1; got 0"),
    (["--repeats", "x"], "invalid int value: 'x'"), (["--threads", "0"], "expected --threads from 1")])
def test_what_cannot_be_run_takes_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.__main__.find_spec", lambda name: True)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_missing_peer_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.__main__.find_spec", lambda name: None if name == "jax" else True)
    assert main(["vae-step"]) == 2
    assert capsys.readouterr().err == (
        "error: expected jax for benchmark 'vae-step'; got none installed; pip install 'latent-zoo[bench]'\n")


def test_the_list_names_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.__main__.find_spec", lambda name: None)
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHMARKS)


def test_every_benchmark_is_there_and_loads_without_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("benchmarks.")]:
        monkeypatch.delitem(sys.modules, name)
    for peer in ("jax", "numpyro"):
        monkeypatch.setitem(sys.modules, peer, None)  # importing it raises
    assert all(callable(load(entry.path)) for entry in BENCHMARKS.values())


def test_variables_that_slow_numpy_are_left_out() -> None:
    assert environment({"PATH": "/bin", **dict.fromkeys(UNSET, "1")}) == {"PATH": "/bin"}
    assert {"processor", "cores", "threads", "memory", "torch", "date"} <= set(describe(2))


def test_a_task_runs_here_and_in_a_process_of_its_own() -> None:
    task = Task("tests.benchmarks.test_benchmarks:double", {"x": np.arange(3.0)}, {"times": 1})
    assert task().tolist() == [0.0, 1.0, 2.0]
    assert task.having(times=2)().tolist() == [0.0, 2.0, 4.0]
    cold = Task("tests.benchmarks.test_benchmarks:slow", {}, libraries=("json", "zoo:build")).cold()
    assert 0.2 < cold.call < cold.process
    assert calls({"zoo": (cold,)}) == {"zoo": (cold.call,)}
    assert processes({"zoo": (Cold(1.0, 2.0), Cold(1.0, 4.0))}) == "whole processes zoo 3 s"


def slow(arrays: dict[str, Any]) -> None:
    time.sleep(0.2)


def double(arrays: dict[str, Any], times: int) -> Any:
    return times * arrays["x"]


def test_the_choice_that_gets_there_soonest_is_found() -> None:
    given: list[list[float]] = []

    def trace(choice: tuple[float, int, int], at: list[int]) -> Any:
        given.append([])
        for step in at:
            given[-1].append(step)
            yield step * choice[0], step, -100.0 / step * choice[2]

    found = seek([(2.0, 0, 1), (1.0, 0, 1), (1.0, 0, 9)], trace, lambda state, *draws: state, -5.0, 60, 1000.0)
    assert found.choice == (1.0, 0, 1)
    assert found.reached
    assert found.steps == next(step for step in stops(60) if step >= 20)
    assert given[2][-1] <= given[1][-1] + 2  # cut off once it can't win


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_a_fit_that_is_timed_again_ends_where_its_trace_was(family: str) -> None:
    """Traces begin at a contained family's fit, so what is timed must do that, too."""
    from benchmarks.sides import zoo_elbo

    arrays = {"data.y": np.array([0.5, -1.0]), "data.sigma": np.array([1.0, 2.0])}
    _, (loc, factor) = zoo_elbo.trace(arrays, "eight_schools", family)[2]
    again = zoo_elbo.reach(arrays, "eight_schools", family, step=3, given=True)
    np.testing.assert_array_equal(again[0], loc)
    np.testing.assert_array_equal(again[1], factor)


def test_a_target_that_none_reaches_is_told() -> None:
    found = seek([(1.0, 0, 1)], lambda _, at: ((s, s, -9.0) for s in at), lambda state, *draws: state, -5.0, 20, 1000.0)
    assert (found.reached, found.steps) == (False, 20)


def test_a_judge_takes_any_factor_of_a_covariance() -> None:
    x = zoo.dataset("eight_schools").x
    judge = Judge(Case("schools", "eight_schools", {f"data.{name}": value.numpy() for name, value in x.items()}))
    rng = np.random.default_rng(0)
    loc, factor = 0.1 * rng.normal(size=10), np.tril(0.1 * rng.normal(size=(10, 10))) + np.eye(10)
    turn = np.linalg.qr(rng.normal(size=(10, 10)))[0]  # the same covariance
    assert judge((loc, factor), FEW) == pytest.approx(judge((loc, factor @ turn), FEW), abs=0.2)
    assert judge((loc, factor), FEW) == pytest.approx(judge((loc, factor)), abs=0.2)


@pytest.mark.parametrize(("stack", "expected"), [
    ([("/a/torch/autograd/graph.py", "run"), ("/a/torch/_tensor.py", "backward"),
      ("/b/experiments/inference/svi/ascent.py", "step")], "backward"),
    ([("/a/torch/optim/adam.py", "step")], "optimiser"),
    ([("/a/torch/nn/linear.py", "forward"), ("/b/guides/amortisation.py", "forward")], "guide"),
    ([("/a/pyro/poutine/trace_messenger.py", "get_trace"), ("/b/zoo/program/run.py", "run"), ("/b/zoo/model.py", "log_terms")],
     "program trace"),
    ([("/a/torch/distributions/normal.py", "log_prob"), ("/a/pyro/poutine/trace_struct.py", "compute_log_prob"),
      ("/b/zoo/model.py", "log_terms")], "density"),
    ([("/b/experiments/fits/callbacks.py", "step")], "bookkeeping")])
def test_a_stack_is_in_one_layer(stack: list[tuple[str, str]], expected: str) -> None:
    assert layer(stack) == expected


def _maker() -> ModuleType:
    path = ROOT / "docs" / "make_benchmarks.py"
    spec = importlib.util.spec_from_file_location("make_benchmarks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
