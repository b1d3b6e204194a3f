"""A user's own Pyro program, named by its file or its module, and a file of data as its arguments."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from experiments.runtime.files import digest
from zoo.errors import ZooError, nearest
from zoo.registry import DATASETS

#: How a program is written: a file of Python, or a module, and a name in it.
OWN = re.compile(r"(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*")


def is_own(model: str) -> bool:
    """Return whether a model is written as a program of the user's own: ``file.py:name``, or ``package.module:name``.

    >>> is_own("models.py:coin"), is_own("my_package.models:coin"), is_own("gmm")
    (True, True, False)
    """
    return OWN.fullmatch(model) is not None


def absolute_program(model: str) -> str:
    """Return what names a program, its file by the absolute path: whoever goes on may stand elsewhere."""
    path, _, name = model.rpartition(":")
    return f"{Path(path).resolve()}:{name}" if path.endswith(".py") else model


def source_digest(model: str) -> str:
    """Return the SHA-256 of the file that a program is written in, with those of its folder that it imports; empty of none."""
    path = model.rpartition(":")[0]
    place = path if path.endswith(".py") else getattr(sys.modules.get(path), "__file__", None)
    if not place or not Path(place).is_file():
        return ""
    first = Path(place).resolve()
    parts = [f"{file.relative_to(first.parent)} {digest(file.read_bytes())}\n" for file in _imported(first)]
    return digest("".join(parts).encode())


def _imported(first: Path) -> list[Path]:
    """Return a file, and those below its folder that it imports, directly or by another, as their statements say."""
    folder, found, left = first.parent, [], [first]
    while left:
        file = left.pop()
        if file in found or not file.is_file():
            continue
        found.append(file)
        with suppress(SyntaxError):
            for node in ast.walk(ast.parse(file.read_bytes())):
                left += [folder.joinpath(*name.split(".")[:count]) / "__init__.py" for name in _names(node) for count in (1, 2)]
                left += [folder.joinpath(*name.split(".")).with_suffix(".py") for name in _names(node)]
    return sorted(found)


def _names(node: ast.AST) -> list[str]:
    """Return the modules that a statement may import, by their names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _helpers(folder: str) -> list[str]:
    """Return the modules that have been imported from a folder, by their names."""
    found = []
    for name in list(sys.modules):
        place = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None)
        if place:
            at = Path(place).parent.parent if Path(place).name == "__init__.py" else Path(place).parent
            found += [name] if str(at) == folder else []
    return found


@contextmanager
def program_of(written: str) -> Iterator[Callable[..., Any]]:
    """Give the program that is written ``file.py:name``, or ``package.module:name``; its code is run.

    Within the block the file's folder is where it imports from, what it prints goes to standard error, and an exit that it asks
    for is an error.

    Raises:
        ZooError: no such file, module or name, or code that fails.
    """
    path, _, name = written.rpartition(":")
    file = Path(path) if path.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ZooError(f"expected a file of Python before ':{name}'; got {path}, which is none; mend the path")
    folder = str(Path.cwd() if file is None else file.parent.resolve())
    known = {*sys.modules} if folder not in sys.path else None
    sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):
            yield _found(_module(path) if file is None else _run(file), name, path)
    except SystemExit as error:
        raise ZooError(f"expected {path} to return; got an exit ({error.code}); leave it out") from None
    except ZooError:
        raise
    except Exception as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == Path(folder)]
        if not own:
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise ZooError(
            f"expected {path} to run; got {type(error).__name__}: {first}, in line {own[-1].lineno} of {own[-1].filename}; "
            "mend it") from error
    finally:
        sys.path.remove(folder)
        for helper in [] if known is None else [one for one in _helpers(folder) if one not in known]:
            del sys.modules[helper]  # another program may have one of the same name


def _found(module: Any, name: str, path: str) -> Callable[..., Any]:
    """Return the program of a module that is called ``name``."""
    found = getattr(module, name, None)
    if not callable(found):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = nearest(name, own) or f"; it has {', '.join(own) or 'none'}"
        raise ZooError(f"expected a Pyro program '{name}' in {path}; got none{hint}")
    if isinstance(found, type):
        raise ZooError(f"expected a function or an instance '{name}' in {path}; got a class; name an instance of it")
    program: Callable[..., Any] = found
    return program


def _module(name: str) -> Any:
    """Import a module by its name."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ZooError(
            f"expected a module '{name}' that can be imported, or a file of Python ending in .py; got {type(error).__name__}: "
            f"{first}; mend it") from error


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


def arguments_of(program: Callable[..., Any], data: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a program is to be called with: columns by the names of its arguments, or the data whole.

    A program whose arguments without defaults all have names of columns, or of arrays of an NPZ file, gets these. One of one
    argument gets an array, a registered data set, a file's only column, or its whole table by columns.

    Raises:
        ZooError: no file, one that can't be read, or arguments that it does not have.
    """
    from zoo.datasets.files import read_arguments
    from zoo.program.calls import is_frame

    columns, x = _registered(data) if data in DATASETS else (read_arguments(Path(data)), None)
    columns = dict(columns) if is_frame(columns) else columns
    own = inspect.signature(getattr(program, "forward", program)).parameters
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = [one.name for one in own.values() if one.default is one.empty and one.kind not in several]
    if not isinstance(columns, dict):
        return (columns,), {}
    if all(name in columns for name in wanted):
        taken = [name for name in own if name in columns]
        if not taken:
            raise ZooError(
                f"expected an argument of the program called like a column of {data}; got {', '.join(own) or 'none'}; it has "
                f"{', '.join(columns)}")
        first = [columns[name] for name in taken if own[name].kind is inspect.Parameter.POSITIONAL_ONLY]
        return tuple(first), {name: columns[name] for name in taken[len(first):]}
    if len(wanted) == 1 and x is not None:
        return (x,), {}
    if len(wanted) == 1:
        return (next(iter(columns.values())) if len(columns) == 1 else columns,), {}
    missing = [name for name in wanted if name not in columns]
    raise ZooError(
        f"expected columns {', '.join(wanted)} in {data}, the program's arguments; got none for {', '.join(missing)}; it has "
        f"{', '.join(columns)}")


def _registered(name: str) -> tuple[dict[str, Any], Any]:
    """Return the columns of a registered data set by name, and the data whole."""
    from zoo.datasets import dataset

    found = dataset(name)
    parts = dict(found.x) if isinstance(found.x, Mapping) else dict(zip(found.columns, found.tensor.mT, strict=False))
    return parts, found.x
