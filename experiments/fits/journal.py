"""The journal of a fit on disk: checkpoints from which an interrupted fit goes on, to the same bits."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from experiments.fits.state import State
from experiments.runtime.files import digest, whole, writing
from zoo.errors import ZooError, ZooWarning

#: Seconds between checkpoints, where nobody says.
INTERVAL = 30.0
#: Largest share of a fit's time that checkpoints may take: where one takes long, the next waits longer than the interval.
SHARE = 0.02
#: Of the checkpoints of a fit that is under way: the one before the last is kept for when that can't be read.
KEPT = 2
FORMAT = 1
END = "end"


@dataclass
class Stop:
    """A request to stop: whether a run was asked to, and by which signal.

    Attributes:
        signal: set by whoever asks in this process, and by nothing else.
        file: holds a signal's number where another process asks.
        waits: a fit looks at this after each step: whoever asks need not interrupt it.
    """

    signal: int | None = None
    file: Path | None = None
    waits: bool = False

    @property
    def asked(self) -> int | None:
        """The signal by which the run was asked to stop; ``None``: it was not asked."""
        if self.signal is not None or self.file is None:
            return self.signal
        try:
            text = self.file.read_text()
        except FileNotFoundError:
            return None
        return int(text) if text.isdecimal() else 15


@dataclass
class Journal:
    """A directory of checkpoints: of one fit, or of several, each in a subdirectory that :meth:`of` names.

    A checkpoint is two files: ``NAME.safetensors`` and ``NAME.json``, which holds plain values, the checksum of the
    tensors, and its own. Nothing in them can be executed. A checkpoint that can't be read, or was altered, is passed over
    for the one before it, with a warning.

    Args:
        path: where; it is made when the first checkpoint is written.
        interval: seconds from one checkpoint to the next; longer where writing one would take over a fiftieth of the time.
            At most that much is lost when a run is killed.
        stop: set from outside to make fits write a checkpoint after their step and raise :class:`Interrupted`.
        sealed: refuse to fit what is not done; for reading.
        ready: called before anything is written, to see to the directory around.
    """

    path: Path
    interval: float = INTERVAL
    stop: Stop = field(default_factory=Stop)
    sealed: bool = False
    ready: Callable[[], object] = lambda: None
    #: What writes the files that the fits have left for good, by their paths: shared with the journals in subdirectories.
    _left: dict[Path, Callable[[], object]] = field(default_factory=dict, repr=False)
    _last: float = field(default_factory=time.monotonic, repr=False)
    _wait: float = field(default=0.0, repr=False)

    def of(self, name: str) -> Journal:
        """Return the journal of the fit called ``name``, in a directory of its own."""
        return Journal(self.path / slug(name), self.interval, self.stop, self.sealed, self.ready, self._left)

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._last >= max(self.interval, self._wait)

    def make(self) -> None:
        """Make the directory, and write what fits have left for good once more where it was removed.

        Raises:
            ZooError: if the disk refuses.
        """
        self.ready()
        lost = [path for path in self._left if not path.exists()]
        for place in (self.path, *(path.parent for path in lost)):
            with writing(place):
                place.mkdir(parents=True, exist_ok=True)
        for path in lost:
            self._left[path]()

    def remember(self, name: str, again: Callable[[], object]) -> Path:
        """Keep what writes the file ``name`` again, for when it is removed; return the file's path."""
        self._left[self.path / name] = again
        return self.path / name

    def tidy(self) -> None:
        """Remove what a write that was cut off left here: temporary files, and tensors without what makes them a checkpoint."""
        orphans = [file for file in self.path.glob("step-*.safetensors") if not file.with_suffix(".json").exists()]
        for file in (*self.path.glob(".part-*"), *orphans):
            file.unlink(missing_ok=True)

    def save(self, step: int, state: State) -> Path:
        """Write the checkpoint after ``step``, and drop all but the last :data:`KEPT`.

        Raises:
            ZooError: if the disk is full; the checkpoints before it are left as they are.
        """
        begun = time.monotonic()
        self.make()
        path = write(self.path / f"step-{step:010d}", state)
        self._drop(self._steps()[:-KEPT])
        self._last = time.monotonic()
        self._wait = (self._last - begun) / SHARE
        return path

    def finish(self, state: State) -> Path:
        """Write the state of a fit that is done, and drop its checkpoints."""
        self.make()
        path = write(self.path / END, state)
        self._remember_end(state)
        self._drop(self._steps())
        return path

    def end(self) -> State | None:
        """Return the state of a fit that is done; ``None`` where it is not, or can't be read. It needs no checkpoints more."""
        state = self._first([self.path / f"{END}.json"])
        if state is not None and not self.sealed:
            self._remember_end(state)
            self._drop(self._steps())
        return state

    def latest(self) -> State | None:
        """Return the last checkpoint that can be read; ``None`` where there is none."""
        return self._first(self._steps()[::-1])

    def _remember_end(self, state: State) -> None:
        # The state's tensors are those of the fit, which is kept as long as its table: this takes no memory of its own.
        self.remember(f"{END}.json", lambda: write(self.path / END, state))

    def _first(self, paths: list[Path]) -> State | None:
        for path in paths:
            try:
                return read(path)
            except FileNotFoundError:
                continue
            except ZooError as error:
                warnings.warn(ZooWarning(f"{error}; going on from what was before it"), stacklevel=4)
        return None

    def _drop(self, checkpoints: list[Path]) -> None:
        for old in checkpoints:
            remove(old)

    def _steps(self) -> list[Path]:
        return sorted(self.path.glob("step-*.json"))


def slug(name: str) -> str:
    """Return ``name`` as a file name: forbidden characters become dashes, and different names stay different.

    >>> slug("mean_field:encoder"), slug("flow(layers=2)")[:14]
    ('mean_field-encoder-9975', 'flow-layers=2-')
    """
    plain = re.sub(r"[^A-Za-z0-9._=,-]+", "-", name).strip("-.")[:60]
    return plain if plain == name else f"{plain}-{digest(name.encode())[:4]}"


def write(stem: Path, state: State) -> Path:
    """Write ``stem``.safetensors and then ``stem``.json, each whole; return the latter, which makes it a checkpoint.

    Raises:
        ZooError: if the disk refuses.
    """
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.tensors.items()}
    tensors = safetensors.torch.save(plain)
    body = {"format": FORMAT, "tensors": digest(tensors), "values": state.values}
    text = json.dumps(body, sort_keys=True)
    whole(stem.with_name(stem.name + ".safetensors"), tensors)
    path = stem.with_name(stem.name + ".json")
    whole(path, json.dumps({"checksum": digest(text.encode()), "body": body}, sort_keys=True, indent=1))
    return path


def read(path: Path) -> State:
    """Read a checkpoint, ``path`` being its JSON file.

    Raises:
        FileNotFoundError: if there is none.
        ZooError: if it was cut short, altered, or written in another format.
    """
    def refuse(what: str) -> ZooError:
        return ZooError(f"expected a whole checkpoint at {path}; got {what}")

    raw = path.read_bytes()
    try:
        outer = json.loads(raw)
        body = outer["body"]
        same = digest(json.dumps(body, sort_keys=True).encode()) == outer["checksum"]
        values, expected, version = body["values"], body["tensors"], body["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refuse(f"a file that can't be read ({type(error).__name__})") from None
    if not same or not isinstance(values, dict):
        raise refuse("one that was altered: its checksum differs")
    if version != FORMAT:
        raise refuse(f"format {version}, not {FORMAT}")
    try:
        tensors = path.with_suffix(".safetensors").read_bytes()
    except OSError as error:
        raise refuse(f"no tensors beside it ({error.strerror})") from None
    if digest(tensors) != expected:
        raise refuse("tensors that were cut short or altered: their checksum differs")
    try:
        return State(safetensors.torch.load(tensors), values)
    except (SafetensorError, ValueError, KeyError) as error:
        raise refuse(f"tensors that can't be read ({error})") from None


def remove(path: Path) -> None:
    """Remove a checkpoint, its JSON file first: without that file the rest is no checkpoint."""
    for part in (path, path.with_suffix(".safetensors")):
        part.unlink(missing_ok=True)


#: What gives a fit's state when it is asked for.
Snapshot = Callable[[], State]
