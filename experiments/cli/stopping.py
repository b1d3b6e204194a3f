"""Signals that stop a run: on Ctrl-C or SIGTERM it finishes its step, writes a checkpoint, and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from experiments.fits.journal import Stop
from zoo.errors import Interrupted


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Give what SIGINT and SIGTERM set, and put their handlers back after.

    A fit that keeps checkpoints looks at it after each step. Outside of fits, and when asked a second time, the work is left
    where it is.
    """
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        again = stop.signal is not None
        stop.signal = number
        if again or not stop.waits:
            raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
