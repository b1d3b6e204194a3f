"""Standard streams that never raise: what becomes of them must not change what a command leaves behind."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Descriptor(io.FileIO):
    """A descriptor that takes all it is given: after its first ``failure`` the rest is dropped."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                while (count := super().write(data)) is None:  # another process made it non-blocking, and it is full
                    select.select((), (self,), ())
                return count
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


@contextmanager
def unbreakable() -> Iterator[Descriptor]:
    """Put streams that never raise in place of ``sys.stdout`` and ``sys.stderr``; give standard output's descriptor.

    Streams that are closed lead to ``os.devnull``, or the next file that is opened would get their descriptors, and what is
    printed.
    """
    before = sys.stdout, sys.stderr
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open takes the lowest that is free, which is this one
    out, err = (Descriptor(number, "w", closefd=False) for number in (1, 2))
    sys.stdout, sys.stderr = (_text(raw, stream) for raw, stream in zip((out, err), before, strict=True))
    try:
        yield out
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _text(raw: Descriptor, before: Any) -> io.TextIOWrapper:
    """Return a stream of text to a descriptor, encoded and buffered as the one ``before`` it, which is ``None`` if closed.

    Letters that the console lacks, ‖ say, are replaced: they must not cost the numbers.
    """
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=getattr(before, "encoding", "utf-8"), errors="replace",
        line_buffering=getattr(before, "line_buffering", False), write_through=getattr(before, "write_through", False))
