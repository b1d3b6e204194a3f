"""The consoles that commands and tables are printed on: what they are given is text, never markup, and inert."""

from __future__ import annotations

import sys
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from experiments.runtime.inert import inert, inert_lines

#: Characters of a line where nothing says how many there are: of a pipe, a file and a string.
WIDE = 200


class InertConsole(Console):
    """A console on which no text is markup, an emoji's name or an escape sequence.

    Names of files and columns are printed between our own words, so all of a text is made inert, but for ends of lines.
    """

    def __init__(self, **how: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(inert_lines(text), **how)


def console() -> Console:
    """Return a console on standard output: colours and its width on a terminal, plain and wide where it is piped."""
    return InertConsole() if sys.stdout.isatty() else plain_console(None)


def plain_console(file: IO[str] | None, width: int = WIDE) -> Console:
    """Return a console of ``width`` characters that writes plain text to a file, ``None``: to standard output."""
    return InertConsole(file=file, width=width, color_system=None, force_terminal=False)


def cell(text: str) -> Text:
    """Return a cell of a table: inert text in one line, on any console."""
    return Text(inert(text))
