"""Files that are written whole or not at all, directories that are one process's at a time, and checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.errors import Unwritable, ZooError, ZooWarning

#: What a disk says that is full, or that fails.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on leaving, put it in the place of ``path``, safe on the disk.

    Whoever reads ``path``, at any instant and after any crash, finds the old file whole, the new one whole, or none.

    Raises:
        ZooError: if the disk is full or can't be written to; ``path`` is then as it was.
    """
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    with writing(path):
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
            _sync_directory(path.parent)
        finally:
            part.unlink(missing_ok=True)


def whole(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all.

    Raises:
        ZooError: as of :func:`replacing`.
    """
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a full disk refuses into :class:`Unwritable`, and what no place takes into a :class:`ZooError`."""
    check_path(path)
    try:
        yield
    except OSError as error:
        raise _refusal(error)(
            f"expected to write {shown(path)}; got '{error.strerror or error}'; free space or choose another place; "
            "'zoo resume' goes on with a run from its last checkpoint") from error


@contextmanager
def directory(path: Path) -> Iterator[None]:
    """Make a directory, try it, and remove it again if nothing was left in it.

    Raises:
        ZooError: if it can't be written to.
    """
    check_path(path)
    try:
        made = [p for p in (path, *path.parents) if not p.exists()]
        path.mkdir(parents=True, exist_ok=True)
        trial = path / f".trial-{os.getpid()}"
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        raise _refusal(error)(
            f"expected a directory to write to; got --out {shown(path)}: {error.strerror or error}; choose another") from error
    try:
        yield
    finally:
        for one in made:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def _refusal(error: OSError) -> type[ZooError]:
    return Unwritable if error.errno in FULL else ZooError


def check_path(path: Path) -> None:
    """Raise a :class:`ZooError` for a name that no file can have."""
    if "\0" in str(path):
        raise ZooError(f"expected a file name without a zero byte; got {str(path)[:100]!r}; choose another")


def shown(path: Path | str) -> str:
    """Return a path as messages show it: of one that is longer than any need be, its beginning.

    >>> shown("runs/first"), len(shown("x" * 300))
    ('runs/first', 101)
    """
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}…"


class InUse(ZooError):
    """A directory is another process's: nothing may be written there."""


class Hold:
    """The hold of this process on a directory, and on the directory of the same path if that is removed meanwhile.

    Args:
        path: the directory.
        wait: seconds to wait for another process to leave it.

    Raises:
        InUse: if another process is in it.
    """

    def __init__(self, path: Path, wait: float = 0.0):
        self.path = path
        self._kept: dict[Path, bytes] = {}
        self._lock, self._file = self._taken(wait)

    def keep(self, path: Path) -> None:
        """Remember what a file of the directory holds: where the directory is removed, the file is put back."""
        self._kept[path] = path.read_bytes()

    @property
    def lost(self) -> bool:
        """Whether the directory was removed or moved since: its lock's file is not there, or is another one."""
        return _identity(self.path / ".lock") != self._file

    def check(self) -> bool:
        """Make the directory anew if it was removed, with a warning; return whether it was.

        Raises:
            InUse: if there is another process's directory in its place, or what another left.
            ZooError: if the disk refuses.
        """
        if not self.lost:
            return False
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        lock, file = self._taken(0.0)
        missing = [path for path in self._kept if not path.exists()]
        for path, content in self._kept.items():
            if path not in missing and path.read_bytes() != content:
                lock.release()
                raise InUse(f"expected {self.path} to stay this work's; got {path.name} of another's; choose another directory")
        self._lock.release()
        self._lock, self._file = lock, file
        for path in missing:
            whole(path, self._kept[path])
        if missing:
            warnings.warn(ZooWarning(
                f"{self.path} was removed while it was in use; what comes is written to a new directory of that path"),
                stacklevel=2)
        return bool(missing)

    def release(self) -> None:
        """Let other processes in. The lock's file stays: whoever waits for it must wait for the same one."""
        self._lock.release()

    def _taken(self, wait: float) -> tuple[FileLock, tuple[int, int] | None]:
        lock = FileLock(self.path / ".lock", timeout=wait)
        try:
            lock.acquire()
        except Timeout:
            raise InUse(
                f"expected {self.path} to be free; got another process at work in it; wait, or choose another") from None
        return lock, _identity(self.path / ".lock")


@contextmanager
def locked(path: Path, wait: float = 0.0) -> Iterator[Hold]:
    """Keep other processes out of a directory. The system takes the lock back when the process ends, however it ends.

    Raises:
        InUse: if another process is still in it after ``wait`` seconds.
    """
    hold = Hold(path, wait)
    try:
        yield hold
    finally:
        hold.release()


def clear(path: Path) -> None:
    """Remove the temporary files, in a directory and below, of writes that were cut off."""
    for pattern in (".part-*", ".trial-*"):
        for left in path.rglob(pattern):
            left.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from others, whatever they are called; ``None`` where there is none. Open files keep theirs."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def digest(content: bytes | memoryview) -> str:
    """Return the SHA-256 of ``content`` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _sync_directory(path: Path) -> None:
    """Flush a directory to the disk, so that a rename inside it lasts. Not every system can open a directory."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
