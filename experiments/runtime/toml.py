"""TOML files, read with errors of one line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from zoo.errors import ZooError

#: Bytes of a spec that is read.
MOST_BYTES = 2**20


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises:
        ZooError: if it can't be read, is no TOML, or is larger than a megabyte.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > MOST_BYTES:
            raise ZooError(f"expected a spec in {path}; got {len(raw)} bytes; a spec is short")
        return tomllib.loads(raw.decode())
    except OSError as error:
        raise ZooError(f"expected a spec to read; got {path}: {error.strerror or error}; check the path") from None
    except (ValueError, RecursionError) as error:  # tomllib's own error, or bytes that are no UTF-8
        first = (str(error).splitlines() or ["nested too deeply"])[0]
        raise ZooError(f"expected TOML in {path}; got a file that can't be read: {first[:160]}") from None
