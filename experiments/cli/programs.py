"""A user's own Pyro program in a file, and a file of data as its arguments."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, nearest


@contextmanager
def program_of(written: str) -> Iterator[Callable[..., Any]]:
    """Give the program that is written ``file.py:name``; the file is run.

    Within the block the file's folder is where it imports from, what it prints goes to standard error, and an exit that it asks
    for is an error.

    Raises:
        ZooError: no such file or name, or a file that fails.
    """
    path, _, name = written.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise ZooError(f"expected a file of Python before ':{name}'; got {path}, which is none; mend the path")
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        with redirect_stdout(sys.stderr):
            yield _found(_run(file), name, path)
    except SystemExit as error:
        raise ZooError(f"expected {file} to return; got an exit ({error.code}); leave it out") from None
    finally:
        sys.path.remove(str(file.parent.resolve()))


def _found(module: Any, name: str, path: str) -> Callable[..., Any]:
    """Return the program of a module that is called ``name``."""
    found = getattr(module, name, None)
    if not callable(found):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = nearest(name, own) or f"; it has {', '.join(own) or 'none'}"
        raise ZooError(f"expected a Pyro program '{name}' in {path}; got none{hint}")
    program: Callable[..., Any] = found
    return program


def _run(file: Path) -> Any:
    """Run a file of Python as a module."""
    spec = importlib.util.spec_from_file_location(f"program_in_{file.stem}", file)
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None, "a path that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ZooError(f"expected {file} to run as Python; got {type(error).__name__}: {first}; mend it") from error
    return module


def arguments_of(program: Callable[..., Any], data: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a program is to be called with: columns by the names of its arguments, or the data whole.

    A program whose arguments without defaults all have names of columns, or of arrays of an NPZ file, gets these. One of one
    argument gets an array, a table's only column, or the whole table by columns.

    Raises:
        ZooError: no file, one that can't be read, or arguments that it does not have.
    """
    if data is None:
        raise ZooError("expected a file of data for a program of your own; got none; name one with --data")
    from zoo.datasets.files import read_arguments

    columns = read_arguments(Path(data))
    own = inspect.signature(getattr(program, "forward", program)).parameters
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = [one.name for one in own.values() if one.default is one.empty and one.kind not in several]
    if not isinstance(columns, dict):
        return (columns,), {}
    if all(name in columns for name in wanted):
        taken = [name for name in own if name in columns]
        return (), {name: columns[name] for name in taken}
    if len(wanted) == 1:
        return (next(iter(columns.values())) if len(columns) == 1 else columns,), {}
    missing = [name for name in wanted if name not in columns]
    raise ZooError(
        f"expected columns {', '.join(wanted)} in {data}, the program's arguments; got none for {', '.join(missing)}; it has "
        f"{', '.join(columns)}")
