"""Signals that stop a run: on Ctrl-C, SIGTERM or SIGHUP it finishes its step, writes a checkpoint, and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from experiments.fits.journal import Stop
from zoo.errors import Interrupted

#: The signals of a terminal, Ctrl-C and its closing, which reach every process that was started there. Windows has no SIGHUP.
TERMINAL = tuple(number for name in ("SIGINT", "SIGHUP") if (number := getattr(signal, name, None)) is not None)


@contextmanager
def stoppable(signals: Sequence[int] = (*TERMINAL, signal.SIGTERM)) -> Iterator[Stop]:
    """Give what ``signals`` set, and put their handlers back after. Under ``nohup`` SIGHUP stays ignored.

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
    ignored = {number for number in TERMINAL if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN}
    before = {number: signal.signal(number, ask) for number in signals if number not in ignored}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
