"""Callbacks that record the numbers of each step: as lines of JSON, or for TensorBoard, MLflow, or Weights & Biases."""

from __future__ import annotations

import importlib
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.fits.callbacks import Callback, Moment
from experiments.fits.metrics import NUMBERS, MetricsFile, seal_of
from experiments.runtime.files import InUse
from zoo.errors import ZooError, ZooWarning

if TYPE_CHECKING:
    from experiments.fits.result import Fit

#: Seconds that lines wait to be written; up to the second number where the disk refuses.
PATIENCE, LONGEST = 0.5, 60.0
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


class Metrics(Callback):
    """Appends a line of JSON for each step to a file, in half a second: ``fit``, ``step``, ``units`` and :data:`NUMBERS`.

    Beside them the ``objective``, as it is called, and its ``bound``, which is the ``elbo`` only where that is maximised.
    Nats are totals over the ``units`` that are fitted; times are in seconds.

    A fit that goes on from a checkpoint first drops the lines of the steps that it will take again. Lines that somebody else
    changed, doubled or removed are told by the file's seal, with a warning, and do not stop the fit. Where the disk refuses,
    lines wait until it does not.

    Args:
        path: the file; made where there is none.
        ready: called where the file was removed, before it is put back, to see to its directory.
    """

    def __init__(self, path: Path, ready: Callable[[], object] = lambda: None):
        self.path, self._ready = path, ready
        self._file: MetricsFile | None = None
        self._cut: dict[str, int] = {}
        self._waiting: list[Moment] = []
        self._written = 0.0
        self._patience = PATIENCE
        self._said: set[str] = set()
        self._last = 0

    def check(self) -> None:
        """Look through the file, if there is or was one, and write what waits: a run may go on with no fit left to do."""
        if self._file is not None or self.path.exists() or seal_of(self.path).exists():
            self._flush()

    def on_start(self, now: Moment) -> None:
        self._cut_back(now.name, now.step)
        self._written = now.seconds
        self._flush()

    def on_step(self, now: Moment) -> None:
        if now.step <= self._last:
            self._cut_back(now.name, now.step - 1)
        self._last = now.step
        self._waiting.append(now)
        # Between two steps, writing a line costs several times what it does after another. No checkpoint is ahead of its lines.
        if now.saving or now.seconds - self._written > self._patience:
            self._flush(seal=now.saving)
            self._written = now.seconds

    def on_end(self, fit: Fit | None) -> None:
        self._flush(seal=True)

    def _flush(self, seal: bool = False) -> None:
        """Write the lines that wait, and with ``seal`` write down what the file holds. What the disk refuses waits on."""
        try:
            if self._file is None:
                self._file, self._cut = MetricsFile(self.path, self._cut), {}
                if self._file.faults:
                    self._say("faults", f"{self.path} is not as the run left it: {'; '.join(self._file.faults)}; the fits are "
                              "not concerned, but this file is no longer that of a run that was never cut off")
            if self._file.lost:
                self._ready()
                self._file.put_back()
            self._file.append(b"".join(map(_line, self._waiting)))
            self._waiting.clear()
            self._patience = PATIENCE
            if seal:
                self._file.seal()
        except OSError as error:
            self._wait(error)
        except InUse:
            return  # the journal says so when it is to write there, too, and ends the fit
        except ZooError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            self._wait(error.__cause__)

    def _cut_back(self, name: str, step: int) -> None:
        """Drop the lines of a fit's steps after ``step``: those that wait now, those of the file when it is opened next."""
        if self._file is not None:
            self._flush()
            self._file.close()
            self._file = None
        self._last = step
        self._waiting = [one for one in self._waiting if one.name != name or one.step <= step]
        self._cut[name] = step

    def _wait(self, error: OSError) -> None:
        self._patience = min(2 * self._patience, LONGEST)
        self._say("disk", f"expected to write {self.path}; got '{error.strerror or error}'; the fit goes on, and its lines "
                  "wait until they can be written; free space")

    def _say(self, what: str, text: str) -> None:
        """Say something once."""
        if what not in self._said:
            self._said.add(what)
            warnings.warn(ZooWarning(text), stacklevel=4)


class TensorBoard(Callback):
    """Writes :data:`NUMBERS` as scalars, one run of TensorBoard a fit. Needs the extra ``tensorboard``.

    Args:
        path: the directory, for ``tensorboard --logdir``.

    Raises:
        ZooError: if tensorboard is not installed.
    """

    def __init__(self, path: Path):
        self.path, self._make = path, _needed("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer: Any = None

    def on_start(self, now: Moment) -> None:
        from experiments.fits.journal import slug

        self._writer = self._make(str(self.path / slug(_name(now))), purge_step=now.step + 1)

    def on_step(self, now: Moment) -> None:
        for name, value in scalars(now).items():
            self._writer.add_scalar(name, value, now.step)

    def on_checkpoint(self, now: Moment) -> None:
        self._writer.flush()

    def on_end(self, fit: Fit | None) -> None:
        if self._writer is not None:
            self._writer.close()


class MLflow(Callback):
    """Writes :data:`NUMBERS` as metrics, one run of MLflow a fit, beside any run that is active. Needs the extra ``mlflow``.

    Args:
        uri: of the tracking server, or ``file:DIRECTORY``, which needs none.
        experiment: the experiment's name; made where there is none.

    Raises:
        ZooError: if mlflow is not installed.
    """

    #: Steps whose metrics are sent at once.
    BATCH = 100

    def __init__(self, uri: str, experiment: str = "latent-zoo"):
        self._mlflow = _needed("mlflow.tracking", "mlflow")
        self._entities = _needed("mlflow.entities", "mlflow")
        self.uri, self.experiment = uri, experiment
        self._run = ""
        self._waiting: list[Any] = []

    def on_start(self, now: Moment) -> None:
        self._client = self._mlflow.MlflowClient(tracking_uri=self.uri)
        known = self._client.get_experiment_by_name(self.experiment)
        place = self._client.create_experiment(self.experiment) if known is None else known.experiment_id
        self._run = self._client.create_run(place, run_name=_name(now)).info.run_id
        for key, value in _settings(now).items():
            self._client.log_param(self._run, key, value)

    def on_step(self, now: Moment) -> None:
        at = int(1000 * time.time())
        self._waiting += [self._entities.Metric(name, value, at, now.step) for name, value in scalars(now).items()]
        if now.step % self.BATCH == 0:
            self._send()

    def on_checkpoint(self, now: Moment) -> None:
        self._send()

    def on_end(self, fit: Fit | None) -> None:
        self._send()
        if fit is not None:
            self._client.log_param(self._run, "converged", fit.converged)
        self._client.set_terminated(self._run, "FAILED" if fit is None else "FINISHED")

    def _send(self) -> None:
        while self._waiting:  # a request holds a thousand
            self._client.log_batch(self._run, metrics=self._waiting[:1000])
            del self._waiting[:1000]


class WeightsAndBiases(Callback):
    """Writes :data:`NUMBERS` to Weights & Biases, one run a fit, beside any run that is active. Needs the extra ``wandb``.

    Args:
        project: the project's name.
        path: the directory of local files.
        mode: ``online``; ``offline``: to files alone, which ``wandb sync`` sends.

    Raises:
        ZooError: if wandb is not installed, or another mode.
    """

    def __init__(self, project: str = "latent-zoo", path: Path = Path(), mode: str = "online"):
        if mode not in ("online", "offline"):
            raise ZooError(f"expected mode online or offline; got '{mode}'; choose one")
        self._wandb = _needed("wandb", "wandb")
        self.project, self.path, self.mode = project, path, mode
        self._run: Any = None

    def on_start(self, now: Moment) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=self.project, name=_name(now), dir=str(self.path), mode=self.mode, config=_settings(now),
            reinit="create_new", settings=self._wandb.Settings(silent=True))

    def on_step(self, now: Moment) -> None:
        self._run.log(scalars(now), step=now.step)

    def on_end(self, fit: Fit | None) -> None:
        if self._run is None:
            return
        if fit is not None:
            self._run.summary["converged"] = fit.converged
        self._run.finish(exit_code=0 if fit is not None else 1)


def scalars(now: Moment) -> dict[str, float]:
    """Return the numbers of a step by name, those that there are; a bound that is no ELBO by the name that it has."""
    named = {name: getattr(now, name) for name in NUMBERS if name != "seconds"}
    named = named if now.objective == "ELBO" else {now.objective: now.bound, **named}
    return {name: value for name, value in named.items() if value is not None}


def _name(now: Moment) -> str:
    return now.name or now.guide.text


def _settings(now: Moment) -> dict[str, Any]:
    """Return what a fit is of, as plain values."""
    return {
        "model": now.model.label, "guide": now.guide.text, "method": now.method, "objective": now.objective,
        "units": now.units, "limit": now.limit}


def _needed(module: str, extra: str) -> Any:
    """Import a module of an optional package, or say which extra has it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ZooError(f"expected {extra} to be installed; got none; pip install 'latent-zoo[{extra}]'") from None


def _line(now: Moment) -> bytes:
    row = {"fit": now.name, "step": now.step, "units": now.units, "objective": now.objective, "bound": _finite(now.bound)}
    return (_ENCODE({**row, **{name: _finite(getattr(now, name)) for name in NUMBERS}}) + "\n").encode()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
