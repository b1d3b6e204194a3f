"""Trackers that other tools read: what a fit tells arrives, offline."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

import experiments
import zoo
from experiments.fits.callbacks import Callback
from experiments.fits.trackers import MLflow, TensorBoard, WeightsAndBiases
from zoo.errors import ZooError


def fit(*callbacks: Callback, steps: int = 230) -> experiments.Fit:
    x = zoo.dataset("iris").x
    return experiments.fit(zoo.build("ppca", x), "mean_field:encoder", x, steps=steps, callbacks=callbacks)


def test_mlflow_holds_every_step_and_what_the_fit_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file:{tmp_path}/ml"
    done = fit(MLflow(uri, "mine"))
    client = tracking.MlflowClient(tracking_uri=uri)
    run, = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["guide"] == "mean_field:encoder"
    assert run.data.params["converged"] == str(done.converged)
    told = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, "elbo"))
    assert [step for step, _ in told] == list(range(1, done.steps + 1))
    assert told[-1][1] == pytest.approx(done.history[-1][1])


def test_weights_and_biases_writes_files_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    told: list[tuple[int, dict[str, float]]] = []
    watch = WeightsAndBiases("mine", tmp_path, "offline")

    def init(**how: Any) -> Any:
        run = made(**how)
        assert (how["mode"], how["config"]["guide"]) == ("offline", "mean_field:encoder")
        log = run.log
        run.log = lambda values, step: (told.append((step, values)), log(values, step=step))
        return run

    made = watch._wandb.init
    monkeypatch.setattr(watch._wandb, "init", init)
    done = fit(watch, steps=20)
    assert [step for step, _ in told] == list(range(1, 21))
    assert told[-1][1]["elbo"] == pytest.approx(done.history[-1][1])
    written = list(tmp_path.rglob("*.wandb"))
    assert len(written) == 1
    assert written[0].stat().st_size > 1000


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] in ("mlflow", "wandb", "tensorboard"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", without)
    for make, extra in ((lambda: MLflow("file:x"), "mlflow"), (WeightsAndBiases, "wandb")):
        with pytest.raises(ZooError, match=rf"expected {extra} to be installed; got none; pip install 'latent-zoo\[{extra}\]'"):
            make()
    with pytest.raises(ZooError, match="expected mode online or offline; got 'offlin'"):
        WeightsAndBiases(mode="offlin")


def test_tensorboard_beside_them(tmp_path: Path) -> None:
    fit(TensorBoard(tmp_path), steps=5)
    assert list(tmp_path.rglob("events.out.tfevents.*"))
