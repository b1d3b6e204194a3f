"""Callbacks that record the numbers of each step: as lines of JSON, or as events of TensorBoard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from experiments.fits.callbacks import Callback, Moment
from experiments.fits.metrics import NUMBERS, read_metrics
from experiments.runtime.files import whole
from zoo.errors import ZooError

if TYPE_CHECKING:
    from experiments.fits.result import Fit

#: Seconds that lines wait to be written.
PATIENCE = 0.5
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode

class Metrics(Callback):
    """Appends a line of JSON for each step to a file, in half a second: ``fit``, ``step``, ``units`` and :data:`NUMBERS`.

    Beside them the ``objective``, as it is called, and its ``bound``, which is the ``elbo`` only where that is maximised.
    Nats are totals over the ``units`` that are fitted; times are in seconds.

    A fit that goes on from a checkpoint first drops the lines of the steps that it will take again.

    Args:
        path: the file; made where there is none.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: IO[bytes] | None = None
        self._waiting: list[Moment] = []
        self._written = 0.0

    def on_start(self, now: Moment) -> None:
        kept = [row for row in read_metrics(self.path) if row["fit"] != now.name or row["step"] <= now.step]
        text = "".join(_ENCODE(row) + "\n" for row in kept)
        if self.path.exists() and self.path.read_bytes() != text.encode():
            whole(self.path, text)
        self._file = self.path.open("ab", buffering=0)  # what is written outlives the process
        self._written = now.seconds

    def on_step(self, now: Moment) -> None:
        self._waiting.append(now)
        # Between two steps, writing a line costs several times what it does after another. No checkpoint is ahead of its lines.
        if now.saving or now.seconds - self._written > PATIENCE:
            self._write()
            self._written = now.seconds

    def on_end(self, fit: Fit | None) -> None:
        if self._file is not None:
            self._write()
            self._file.close()

    def _write(self) -> None:
        assert self._file is not None, "a fit starts before it steps"
        lines = "".join(_ENCODE({
            "fit": now.name, "step": now.step, "units": now.units, "objective": now.objective, "bound": _finite(now.bound),
            **{name: _finite(getattr(now, name)) for name in NUMBERS}}) + "\n" for now in self._waiting)
        self._waiting.clear()
        self._file.write(lines.encode())


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


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
