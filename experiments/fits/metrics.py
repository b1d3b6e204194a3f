"""The metrics file of a run: a line of JSON for each step, and a seal that tells whether they are those that were written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from weakref import finalize

from experiments.runtime.files import digest, whole
from zoo.errors import ZooError

#: What a step tells besides its number, each a number or nothing.
NUMBERS = ("elbo", "reconstruction", "kl", "gradient_norm", "learning_rate", "seconds")


def read_metrics(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of a metrics file; none where there is no file. A last line that was cut short is left out.

    ``bound`` is of what was maximised, and ``objective`` what that is called; ``elbo`` is the same number if it is the ELBO.

    Args:
        path: the file.
        most: about how many rows to return: of more, evenly spaced ones, and the first and the last of each fit.

    Raises:
        ZooError: a line that is no such row.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in _some(path, most):
        try:
            rows.append(_row(line))
        except _WRONG as error:
            raise ZooError(
                f"expected a step's numbers in line {number} of {path}; got {line.decode(errors='replace')[:60]!r} "
                f"({type(error).__name__}); remove the line") from None
    return rows


def _some(path: Path, most: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield lines of a metrics file with their numbers, every one or about ``most`` of them; the file is read line by line."""
    with path.open("rb") as file:
        length = len(file.readline())
        file.seek(0)
        apart = 1 if most is None or not length else max(1, path.stat().st_size // (length * most))
        before: tuple[int, bytes] | None = None
        fit = b""
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # cut short
                break
            head = line.partition(b', "step"')[0]
            if before is not None and head != fit:
                yield before
                before = None
            if number % apart == 0 or head != fit:
                yield number, line[:-1]
                before = None
            else:
                before = number, line[:-1]
            fit = head
        if before is not None:
            yield before


def seal_of(path: Path) -> Path:
    """Return the path of the seal of the metrics file ``path``."""
    return path.with_name(".metrics.json")


class MetricsFile:
    """A metrics file that is written to: it grows by whole lines, and is cut back where steps are taken again.

    Beside it, ``.metrics.json`` is its seal: the length and the checksum of what it held at the last checkpoint, or at the end
    of a fit. The file starts with these very bytes at any instant, however the process ends. Where it does not, when the file
    is opened, somebody else has changed it. Lines that can't be read, or are there twice, are then left out.

    Args:
        path: the file; made where there is none.
        cut: the last steps to keep, by the names of fits; all steps of fits that are not named are kept.

    Attributes:
        faults: what somebody else changed, in words.

    Raises:
        OSError, ZooError: if the disk refuses.
    """

    def __init__(self, path: Path, cut: Mapping[str, int]):
        self.path, self._seal = path, seal_of(path)
        found = path.read_bytes() if path.exists() else b""
        rows, faults = _good(_lines(found))
        self.faults = self._unsealed(found) + faults + _gaps(rows, cut)
        content = b"".join(line + b"\n" for (fit, step), line in rows.items() if step <= cut.get(fit, step))
        if content != found:
            self._seal.unlink(missing_ok=True)  # first: a seal may be of less than there is, never of more
            if found.startswith(content):
                os.truncate(path, len(content))
            else:
                whole(path, content)
        self._open()
        self._length, self._sum = len(content), hashlib.sha256(content)
        if self.faults or content != found:
            self.seal()

    @property
    def lost(self) -> bool:
        """Whether the path is no longer that of the open file, which was removed or replaced."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except OSError:
            return True

    def append(self, lines: bytes) -> None:
        """Write whole lines, or nothing.

        Raises:
            OSError: if the disk refuses.
        """
        size = os.fstat(self._file.fileno()).st_size
        left = memoryview(lines)
        try:
            while left:
                left = left[self._file.write(left):]
        except OSError:
            os.ftruncate(self._file.fileno(), size)  # what found room would be a line that is cut short
            raise
        self._length += len(lines)
        self._sum.update(lines)

    def seal(self) -> None:
        """Write down what the file holds by now. A seal that the disk refuses leaves the one before, which holds as well."""
        try:
            os.fsync(self._file.fileno())
            whole(self._seal, json.dumps({"length": self._length, "sha256": self._sum.hexdigest()}))
        except (OSError, ZooError):
            return

    def put_back(self) -> None:
        """Put the open file's content, which outlives its name, to the path again where nothing is there.

        Raises:
            OSError, ZooError: if the disk refuses.
        """
        if not self.path.exists():
            self._file.seek(0)
            whole(self.path, self._file.read())
        self._close()
        self._open()
        self.seal()

    def close(self) -> None:
        self._close()

    def _open(self) -> None:
        file = self.path.open("a+b", buffering=0)  # what is written outlives the process
        self._file: IO[bytes] = file
        self._close = finalize(self, file.close)

    def _unsealed(self, found: bytes) -> list[str]:
        """Say what is wrong with the file's content by its seal; nothing where there is none, as of earlier versions."""
        try:
            seal = json.loads(self._seal.read_bytes())
            length, expected = int(seal["length"]), str(seal["sha256"])
        except FileNotFoundError:
            return []
        except (OSError, *_WRONG) as error:
            return [f"its checksum in {self._seal.name} can't be read ({type(error).__name__})"]
        if len(found) < length:
            return [f"it has {len(found):,} bytes of {length:,}"]
        return [] if digest(found[:length]) == expected else ["its checksum differs"]


#: What parsing raises for a line that is no step's.
_WRONG = (ValueError, KeyError, TypeError, RecursionError, OverflowError)


def _lines(content: bytes) -> list[bytes]:
    """Return the whole lines; what follows the last line break was cut short."""
    return content.split(b"\n")[:-1]


def _row(line: bytes) -> dict[str, Any]:
    row = json.loads(line.decode(errors="replace"))
    head = {"fit": str(row["fit"]), "step": int(row["step"]), "units": int(row["units"])}
    numbers = {name: _number(row[name]) for name in NUMBERS}
    bound = {"objective": str(row.get("objective", "ELBO")), "bound": _number(row.get("bound", row["elbo"]))}
    return {**head, **bound, **numbers}


def _good(lines: Iterable[bytes]) -> tuple[dict[tuple[str, int], bytes], list[str]]:
    """Return the lines of each fit's steps, one a step, in their order; and what is wrong with the others."""
    rows: dict[tuple[str, int], bytes] = {}
    damaged = doubled = 0
    for line in lines:
        try:
            row = _row(line)
        except _WRONG:
            damaged += 1
            continue
        doubled += (row["fit"], row["step"]) in rows
        rows.setdefault((row["fit"], row["step"]), line)
    counts = {"can't be read": damaged, "are there twice": doubled}
    return rows, [f"{count:,} lines {what}" for what, count in counts.items() if count]


def _gaps(rows: Iterable[tuple[str, int]], cut: Mapping[str, int]) -> list[str]:
    """Say how many steps lack a line: of each fit up to the last that has one, or up to where it goes on."""
    last, found = dict(cut), dict.fromkeys(cut, 0)
    for fit, step in rows:
        if fit not in cut:
            last[fit] = max(last.get(fit, 0), step)
        found[fit] = found.get(fit, 0) + (1 <= step <= last[fit])
    missing = sum(last[fit] - found[fit] for fit in last)
    return [f"{missing:,} steps have no line"] if missing > 0 else []


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
