"""Specs and grids: what they stand for, where they run, and that one that fails is alone in it."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

import experiments
import zoo
from experiments.cli import run as command
from experiments.reporting.record import read, state_of
from experiments.runs.grid import READY, expand, find, read_grid, write_toml
from experiments.runs.job import prepare
from experiments.runs.spec import complete, keys
from experiments.runs.sweep import SweepOptions, grid_of, sweep
from zoo.errors import ZooError

GRID = """
model = "gmm"
data = "faithful"
guides = ["exact"]
seeds = [0, 1]
steps = 3
draws = 8

[options]
components = [1, 2]
"""


def written(folder: Path, text: str = GRID) -> Path:
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def quick(**options: object) -> SweepOptions:
    return SweepOptions(report=False, **options)


# -- specs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_model_has_a_ready_spec_that_runs(name: str) -> None:
    spec = read_grid(find(name)).specs[""]
    assert spec.model == name
    first = spec.guides[0] if spec.command == "fit" else spec.guides[-1]
    job = prepare(spec.model_copy(update={"steps": 1, "guides": (first,), "train_with": None}))
    assert job.model.label == name


def test_ready_specs_are_in_the_wheel_and_say_what_they_show() -> None:
    for path in READY.glob("*.toml"):
        assert path.read_text().startswith("# "), path.name
        read_grid(path)


def test_a_spec_survives_being_written() -> None:
    for spec in (complete(model="vae", options={"latent": 4, "hidden": (40, 20)}, holdout=0.25, clip=1.5, command="fit"),
                 complete(model="gmm", data="iris", guides=("exact", "categorical"), method=None, seed=7)):
        written = tomllib.loads(write_toml(spec))
        assert "fitting" not in written, "each option is a key of its own"
        (_, given), = expand({k: v for k, v in written.items() if k != "format"})
        assert complete("", **given) == spec


def test_save_spec_writes_what_run_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    words = ["fit", "ppca", "--latent", "1", "-g", "exact", "--method", "em", "--seed", "4", "--json"]
    assert command([*words, "--save-spec", str(path)]) == 0
    assert capsys.readouterr().out == ""
    assert command(words) == 0
    typed = json.loads(capsys.readouterr().out)
    assert command(["run", str(path), "--json"]) == 0
    read_from_file = json.loads(capsys.readouterr().out)
    for table in (typed, read_from_file):
        for part in (table["theta"], *table["guides"]):
            part.pop("seconds")
    assert typed == read_from_file


@pytest.mark.parametrize(("text", "said"), [
    ('model = "gnm"', "model: unknown model 'gnm'; did you mean 'gmm'?"),
    ('model = "gmm"\nsteps = -3', "steps: expected steps as a whole number from 1; got -3"),
    ('model = "gmm"\nstps = 3', "stps: unknown key; did you mean 'steps'?"),
    ('model = "gmm"\n[options]\ncomponets = 3', "options: unknown option 'componets' of gmm; did you mean 'components'?"),
    ('model = "gmm"\nguides = ["catgorical"]', "guides: unknown guide 'catgorical'; did you mean 'categorical'?"),
    ('model = "gmm"\nguides = ["mean_field"]', "guides: guide 'mean_field' does not fit model 'gmm'"),
    ('model = "gmm"\nmethod = "sgd"', "method: unknown method 'sgd'; choose from em, fixed_draws, svi, laplace"),
    ('model = "gmm"\nseeds = []', "seeds: expected a value or more; got an empty list"),
    ('data = "faithful"', "model: field required"),
    ("model = ", "expected TOML in"),
    ('model = "gmm"\nformat = 9', "expected a spec of format 1"),
    (f'model = "gmm"\nseeds = {[*range(101)]}\nsteps = {[*range(1, 102)]}', "expected a grid of up to 10000 runs; got 10201"),
])
def test_bad_specs_name_the_key(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["run", str(written(tmp_path, text))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_spec_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["run", "gnm"]) == 2
    assert "or one of bayesian_gmm, bayesian_neural_network" in capsys.readouterr().err


# -- grids -----------------------------------------------------------------------------------------------------------------


def test_lists_make_runs_where_one_value_belongs() -> None:
    names = [name for name, _ in expand({"command": "fit", "model": "vae", "guides": ["mean_field", "full_rank"],
                                         "seeds": [0, 1], "options": {"latent": [2, 8], "hidden": [40, 20]}})]
    assert len(names) == 8
    assert names[0] == "guide=mean_field,seed=0,latent=2"
    (name, given), = expand({"model": "vae", "options": {"hidden": [40, 20]}, "guides": ["mean_field", "full_rank"]})
    assert (name, given["options"]["hidden"], given["guides"]) == ("", (40, 20), ["mean_field", "full_rank"])
    assert len(list(expand({"model": "vae", "options": {"hidden": [[40], [40, 20]]}}))) == 2


def test_a_grid_runs_and_only_what_is_missing_runs_again(tmp_path: Path) -> None:
    grid, out = read_grid(written(tmp_path)), tmp_path / "runs"
    with ThreadPoolExecutor(1) as executor:
        done = sweep(grid, out, quick(), executor)
        assert [record.state for record in done] == ["done"] * 4
        assert {record.name for record in done} == {f"seed={s},components={c}" for s in (0, 1) for c in (1, 2)}
        table = pd.read_csv(out / "comparison.csv")
        assert list(table["run"]) == [record.name for record in done]
        times = {record.path: (record.path / "comparison.json").stat().st_mtime_ns for record in done}
        (done[1].path / "status.json").unlink()
        sweep(grid, out, quick(), executor)
    again = {path: (path / "comparison.json").stat().st_mtime_ns for path in times}
    assert [path for path in times if times[path] != again[path]] == [done[1].path]


@pytest.mark.long
def test_a_grid_on_processes_leaves_the_cores_shared(tmp_path: Path) -> None:
    done = sweep(read_grid(written(tmp_path)), tmp_path / "runs", quick(jobs=2))
    assert [record.state for record in done] == ["done"] * 4
    assert {record.spec["record"]["threads"] for record in done} == {max(1, (os.cpu_count() or 1) // 2)}


def test_one_that_fails_does_not_stop_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GRID.replace("components = [1, 2]", "components = [1, 500]").replace('"faithful"', '["faithful", "nothing.csv"]')
    out = tmp_path / "runs"
    with ThreadPoolExecutor(1) as executor:
        done = sweep(read_grid(written(tmp_path, text)), out, quick(), executor)
    states = {record.name: record.state for record in done}
    assert sum(state == "done" for state in states.values()) == 2
    failed = {record.name: record.error for record in done if record.state == "failed"}
    assert len(failed) == 6
    assert "expected between 1 component and as many as the" in failed["data=faithful,seed=0,components=500"]
    assert "got no such file" in failed["data=nothing.csv,seed=0,components=1"]
    assert command(["runs", str(out)]) == 0
    assert "failed" in capsys.readouterr().out
    assert command(["report", str(out)]) == 0
    assert "got no such file" in (out / "report.html").read_text()


@pytest.mark.long
def test_the_command_says_that_a_run_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, GRID.replace("components = [1, 2]", "components = [500, 501]"))
    assert command(["run", str(path), "--no-report", "--jobs", "1", "--out", str(tmp_path / "runs")]) == 3
    captured = capsys.readouterr()
    assert captured.out.count("failed") == 4
    assert "remark: seed=0,components=500: failed" in captured.err


def test_another_grid_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        sweep(read_grid(written(tmp_path)), tmp_path / "runs", quick(), executor)
        changed = read_grid(written(tmp_path, GRID.replace("steps = 3", "steps = 4")))
        with pytest.raises(ZooError, match=r"expected the same grid in .*; got one with another run 'seed=0,components=1'"):
            sweep(changed, tmp_path / "runs", quick(), executor)
        more = read_grid(written(tmp_path, GRID.replace("[0, 1]", "[0, 1, 2]")))
        assert len(sweep(more, tmp_path / "runs", quick(), executor)) == 6, "a grid may grow"
    assert len(grid_of(tmp_path / "runs").specs) == 6


class Killing(Executor):
    """An executor whose workers are lost."""

    def submit(self, function, /, *arguments, **named):  # type: ignore[no-untyped-def]
        from concurrent.futures import Future

        future: Future[str] = Future()
        future.set_exception(RuntimeError("worker lost\nwith a long story"))
        return future


def test_a_worker_that_is_lost_is_a_failed_run(tmp_path: Path) -> None:
    done = sweep(read_grid(written(tmp_path)), tmp_path / "runs", quick(), Killing())
    assert {record.error for record in done} == {"RuntimeError: worker lost with a long story"}


@pytest.mark.long
def test_a_grid_on_a_dask_cluster(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, protocol="tcp") as cluster:
        path = written(tmp_path)
        code = command(["run", str(path), "--dask", cluster.scheduler_address, "--no-report", "--out", str(tmp_path / "runs")])
    assert code == 0
    assert {state_of(place) for place in (tmp_path / "runs").iterdir() if place.is_dir()} == {"done"}
    with ThreadPoolExecutor(1) as executor:
        here = sweep(read_grid(path), tmp_path / "here", quick(), executor)
    for record in here:
        there = read(tmp_path / "runs" / record.name)
        assert [row["elbo"] for row in there.comparison["guides"]] == [row["elbo"] for row in record.comparison["guides"]]


def test_a_scheduler_that_does_not_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    before = dask.config.get("scheduler", None)
    assert command(["run", str(written(tmp_path)), "--dask", "nonsense://x", "--out", str(tmp_path / "runs")]) == 2
    assert "expected a Dask scheduler at 'nonsense://x'; got no answer" in capsys.readouterr().err
    assert dask.config.get("scheduler", None) == before, "or each file that xarray writes later asks it for a lock"


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_grid_that_is_interrupted_is_resumed(number: int, tmp_path: Path) -> None:
    text = """
        model = "ppca"
        data = "iris"
        guides = ["exact"]
        train_with = "mean_field:encoder"
        seeds = [0]
        steps = 1500
        draws = 8
        [options]
        latent = [1, 2]
    """
    out = tmp_path / "runs"
    words = ["run", str(written(tmp_path, text)), "--no-report", "--jobs", "2", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "experiments.cli", *words], stderr=subprocess.PIPE, text=True)
    begun = [out / f"seed=0,latent={latent}" / "metrics.jsonl" for latent in (1, 2)]
    while not all(path.exists() and path.stat().st_size > 300 for path in begun):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    if number == signal.SIGKILL:  # the workers that it leaves behind stop by themselves, while the resume waits for them
        process.wait(60)
        process.stderr.close()
    else:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 143
        assert said.splitlines()[-1] == f"error: interrupted; 'zoo resume {out}' goes on from its last checkpoint"
        assert "Traceback" not in said
    # One that had come to the end of its fit by then, as on a quick machine, has no need of a checkpoint.
    met = [path for path in begun if theta_steps(path.parent)[-1] < 1500]
    assert met
    for path in met if number != signal.SIGKILL else ():
        assert list(path.parent.rglob("checkpoint/*/step-*.json"))
    assert not (out / ".stop").exists()
    assert command(["resume", str(out), "--no-report", "--jobs", "1"]) == 0
    assert {state_of(path.parent) for path in begun} == {"done"}
    assert theta_steps(begun[0].parent) == list(range(1, 1501))


def theta_steps(folder: Path) -> list[int]:
    return [row["step"] for row in read(folder).metrics if row["fit"] == "theta"]


# -- trackers ------------------------------------------------------------------------------------------------------------------


def test_tensorboard_gets_what_a_step_tells(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    words = ["fit", "ppca", "--data", "iris", "-g", "mean_field", "--method", "svi", "--steps", "20", "--no-report"]
    assert command([*words, "--tensorboard", "--out", str(out)]) == 0
    (folder,) = (out / "tensorboard").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"elbo", "reconstruction", "kl", "gradient_norm", "learning_rate"} <= set(events.Tags()["scalars"])
    rows = read(out).metrics
    assert [event.step for event in events.Scalars("elbo")] == list(range(1, 21))
    assert [event.value for event in events.Scalars("elbo")] == pytest.approx([row["elbo"] for row in rows], rel=1e-6)


def test_a_tracker_hears_of_checkpoints_and_one_that_raises_loses_nothing(tmp_path: Path) -> None:
    heard: list[str] = []

    class Mine(experiments.Callback):
        def on_start(self, now: experiments.Moment) -> None:
            heard.append(f"start {now.name}")

        def on_checkpoint(self, now: experiments.Moment) -> None:
            assert now.checkpoint.exists()
            heard.append(f"checkpoint {now.step}")

        def on_end(self, fit: experiments.Fit | None) -> None:
            heard.append(f"end {fit.steps}")

    class Broken(experiments.Callback):
        def on_checkpoint(self, now: experiments.Moment) -> None:
            raise RuntimeError("no network")

    x = zoo.dataset("faithful").x
    with pytest.warns(zoo.ZooWarning, match="callback Broken raised RuntimeError: no network; the fit goes on without it"):
        done = experiments.fit(zoo.build("gmm", x), "exact", x, journal=experiments.Journal(tmp_path, 0.0), name="mine",
                               callbacks=[Broken(), Mine()])
    assert heard[0] == "start mine"
    assert heard[1] == "checkpoint 1"
    assert heard[-1] == f"end {done.steps}"


def test_spec_says_all_that_the_commands_take() -> None:
    """What a flag asks for, a spec can hold: no option of a fit is left to the command line alone."""
    from experiments.cli import fitting

    shown = {"as_json", "columns"}
    aside = {"context", "guide", "out", "save", "save_spec", "report", "checkpoint_every", "tensorboard", "force"} | shown
    for function in (fitting.compare, fitting.fit):
        names = set(inspect.signature(function).parameters) - aside
        assert names <= set(keys()), names - set(keys())
        assert {"steps", "train_draws", "clip", "accelerate"} <= names  # of every method
