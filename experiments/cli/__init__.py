"""The ``zoo`` command. Results go to standard output, progress and remarks to standard error."""

from __future__ import annotations

import gc
import os
import sys
from functools import cache
from typing import Any

import typer

from experiments.cli.app import app
from experiments.cli.streams import unbreakable
from experiments.reporting.output import remarks, say
from zoo.errors import Interrupted, Unwritable, ZooError

with remarks():  # of an entry point of another package that fails: the options list the methods
    from experiments.cli import fitting, recommending, running, showing  # each adds its commands to the app

__all__ = ["app", "fitting", "main", "recommending", "run", "running", "showing"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit, never with a traceback.

    The exit code is 0 for success, 1 for a full disk, a full standard output or a defect of the zoo, 2 for bad input, 3 if a
    study's claim or a run of a grid failed, and 130, 143 or 129 for an interruption: by Ctrl-C, SIGTERM or SIGHUP. That whoever
    reads standard output has left, as ``head`` does, is success.
    """
    # What is imported stays. Looking through all of it for rubbish costs a second on the way, and another at the end.
    gc.set_threshold(*gc.get_threshold()[:2], 100)
    with unbreakable() as out:
        code = run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
            reason = out.failure.strerror
            code = _fail(f"expected standard output to take all that is printed; got '{reason}'; print elsewhere", code or 1)
    gc.freeze()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    with remarks():
        try:
            code = _command()(arguments, standalone_mode=False)
            return _fail("interrupted", 130) if code == 130 else int(code or 0)
        except ZooError as error:
            return _fail(str(error), 1 if isinstance(error, Unwritable) else 2)
        except Interrupted as stopped:
            on = f"; 'zoo resume {stopped.path}' goes on from its last checkpoint" if stopped.path is not None else ""
            return _fail(f"interrupted{on}", 128 + stopped.signal)
        except Exception as error:
            return _unexpected(error)


@cache
def _command() -> Any:
    """Read the commands' signatures: once, however often a process runs one."""
    return typer.main.get_command(app)


def _unexpected(error: Exception) -> int:
    message = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError" and message is not None:
        print(message())
        return 0
    if message is not None:  # the command-line library's own: a missing argument, a word that is no number
        return _fail(str(message()).strip().rstrip("."), 2)
    if type(error).__name__ == "Abort":
        return _fail("interrupted", 130)
    if os.environ.get("ZOO_DEBUG"):
        raise error
    if isinstance(error, OSError) and error.filename is not None:
        from experiments.runtime.files import shown

        path = shown(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else error.filename
        return _fail(f"expected a file or directory that can be used; got '{path}': {error.strerror}; choose another", 2)
    from zoo.program.vectorise import out_of_memory

    if out_of_memory(error):
        return _fail("expected what fits into memory; got more; take fewer rows, draws or components, or a smaller guide", 2)
    first = (str(error).strip().splitlines() or [""])[0]
    return _fail(f"unexpected {type(error).__name__}: {first[:200]}; set ZOO_DEBUG=1 to see where, and please report it", 1)


def _fail(text: str, code: int) -> int:
    say("error: " + " ".join(text.split()))
    return code
