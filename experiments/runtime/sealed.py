"""Folders that others may have made: nothing in them leads out, and files are what they were when they were sealed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from experiments.runtime.files import digest
from zoo.errors import ZooError

#: Folders inside folders, at most: a run's are two deep.
DEEP = 8


def check_inside(path: Path, names: Container[str] | None = None, depth: int = 0) -> None:
    """Raise a :class:`ZooError` unless a folder holds regular files and folders alone.

    A link in it would have its target read into a page, or written over; a pipe or a device would never end. The folder itself
    may be reached by a link.

    Args:
        path: the folder.
        names: of what in it is read or written; the rest is left alone. ``None``: all of it.
        depth: of the folder inside the first one.
    """
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except NotADirectoryError:
        raise ZooError(f"expected a directory; got {path}, which is a file; check the path") from None
    except OSError as error:
        raise ZooError(f"expected a directory that can be read; got {path}: {error.strerror}; check the path") from None
    for entry in entries:
        if names is not None and entry.name not in names:
            continue
        if entry.is_symlink():
            raise ZooError(f"expected files and folders in {path}; got the link {entry.name}; remove it")
        if entry.is_dir(follow_symlinks=False):
            if depth == DEEP:
                raise ZooError(f"expected a run's folders in {path}; got more than {DEEP} inside each other; remove them")
            check_inside(Path(entry.path), None, depth + 1)
        elif not entry.is_file(follow_symlinks=False):
            raise ZooError(f"expected files and folders in {path}; got {entry.name}, which is neither; remove it")


def seal(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of those of the files called ``names``, paths below ``path``, that there are."""
    return {name: file_digest(path / name) for name in names if (path / name).is_file()}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, which need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_seal(path: Path, name: str, seals: Mapping[str, str]) -> None:
    """Raise a :class:`ZooError` where the file ``name`` in the folder ``path`` has a seal, and is not what was sealed."""
    if name in seals and not (path / name).is_file():
        raise _removed(path / name)
    if name in seals and file_digest(path / name) != seals[name]:
        raise _changed(path / name)


def _removed(file: Path) -> ZooError:
    return ZooError(f"expected {file} as the run wrote it; got none; put it back, or make it again by 'zoo resume --force'")


def _changed(file: Path) -> ZooError:
    return ZooError(f"expected {file} as the run wrote it; got one that was changed (its checksum differs); put it back")


def sealed_bytes(path: Path, name: str, seals: Mapping[str, str]) -> bytes | None:
    """Return what the file ``name`` in the folder ``path`` holds; ``None`` where there is none.

    Raises:
        ZooError: it can't be read, or it has a seal and is not there, or not what was sealed.
    """
    file = path / name
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        if name in seals:
            raise _removed(file) from None
        return None
    except OSError as error:
        raise ZooError(f"expected {file}; got a file that can't be read ({error.strerror}); remove it") from None
    if name in seals and digest(content) != seals[name]:
        raise _changed(file)
    return content
