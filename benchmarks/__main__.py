"""Run benchmarks by name, or all of them: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from benchmarks.registry import BENCHMARKS
from benchmarks.runner import run
from zoo.errors import ZooError
from zoo.registry import lookup

#: Where results go if nobody says.
OUT = Path("runs/benchmarks")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ZooError(message)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks in ``arguments``; return the exit code: 1 if a benchmark failed, 2 if the arguments are wrong."""
    try:
        asked = _parser().parse_args(arguments)
        names = [] if asked.list else list(dict.fromkeys(asked.names)) or list(BENCHMARKS)
        check(names, asked.repeats, asked.threads)
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if asked.list:
        width = max(map(len, BENCHMARKS))
        print("\n".join(f"{name:{width}}  {entry.summary}" for name, entry in BENCHMARKS.items()))
        return 0
    return max(run(name, asked.out, asked.repeats, asked.threads) for name in names)


def check(names: Sequence[str], repeats: int | None, threads: int) -> None:
    """Raise a :class:`ZooError` for an unknown benchmark, a peer that is not installed, or a number below 1."""
    for name in names:
        entry = lookup(BENCHMARKS, name, "benchmark", "python -m benchmarks --list")
        missing = next((package for package in entry.needs if find_spec(package) is None), None)
        if missing is not None:
            raise ZooError(f"expected {missing} for benchmark '{name}'; got none installed; pip install 'latent-zoo[bench]'")
    for option, number in (("repeats", repeats), ("threads", threads)):
        if number is not None and number < 1:
            raise ZooError(f"expected --{option} from 1; got {number}; raise it")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m benchmarks", description="Time the zoo and its peers side by side.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    parser.add_argument("--list", action="store_true", help="list the benchmarks, and run nothing")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"directory for JSON and figures (default: {OUT})")
    parser.add_argument(
        "--repeats", type=int, metavar="N", help="number of timed runs of each contender (default: each benchmark's own)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="number of cores (default: 2)")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not at once: the process that measures must end, too
    sys.exit(main(sys.argv[1:]))
