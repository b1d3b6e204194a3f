"""Text of others made inert: a file's name or a cell of a table must not steer the terminal that it is printed on."""

from __future__ import annotations

import json
import re
from typing import Any

#: Control characters (C0, DEL, C1), marks of direction and of lines, and what stands for bytes that are no UTF-8.
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def inert(text: str) -> str:
    r"""Return a text in one line in which characters that a terminal obeys are replaced by visible escapes.

    >>> print(inert("run\x1b[31m\n"))
    run\x1b[31m\n
    """
    return _ACTIVE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def inert_lines(text: str) -> str:
    """Return a text of ours of several lines, each made :func:`inert`."""
    return "\n".join(map(inert, text.split("\n")))


def inert_json(value: Any) -> str:
    r"""Return plain data as JSON over several lines, its active characters as JSON's own escapes.

    Raises:
        ValueError: a number that JSON does not have.

    >>> print(inert_json({"θ": "\x9b31m"}))
    {
     "θ": "\u009b31m"
    }
    """
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    return "\n".join(_ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in text.split("\n"))
