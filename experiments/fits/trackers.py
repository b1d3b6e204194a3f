"""Callbacks that record the numbers of each step: as lines of JSON, or as events of TensorBoard."""

from __future__ import annotations

import json
import math
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
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ZooError("expected tensorboard for --tensorboard; got none installed; pip install 'latent-zoo[tensorboard]'"
                           ) from None
        self.path, self._make = path, SummaryWriter
        self._writer: Any = None

    def on_start(self, now: Moment) -> None:
        from experiments.fits.journal import slug

        self._writer = self._make(str(self.path / slug(now.name or now.guide.text)), purge_step=now.step + 1)

    def on_step(self, now: Moment) -> None:
        named = {name: getattr(now, name) for name in NUMBERS if name != "seconds"}
        for name, value in (named if now.objective == "ELBO" else {now.objective: now.bound, **named}).items():
            if value is not None:
                self._writer.add_scalar(name, value, now.step)

    def on_checkpoint(self, now: Moment) -> None:
        self._writer.flush()

    def on_end(self, fit: Fit | None) -> None:
        if self._writer is not None:
            self._writer.close()


def _line(now: Moment) -> bytes:
    row = {"fit": now.name, "step": now.step, "units": now.units, "objective": now.objective, "bound": _finite(now.bound)}
    return (_ENCODE({**row, **{name: _finite(getattr(now, name)) for name in NUMBERS}}) + "\n").encode()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
