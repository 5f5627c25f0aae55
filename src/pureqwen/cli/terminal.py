"""Where text is shown: what the terminal can do, and what a model must not do to it.

A model's words are not to be trusted: a terminal obeys escape sequences (move the cursor, set the title,
write the clipboard), so every control character but newline and tab is shown as an escape instead of being
sent. Files and pipes get the words as they are. No markup is ever interpreted.

No colour under NO_COLOR (https://no-color.org), with TERM=dumb, or where the stream is no terminal.
"""

import io
import os
import sys
from types import MappingProxyType
from typing import TextIO

from rich.console import Console
from rich.table import Table

_CONTROLS = MappingProxyType(
    {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t\r"}
    | {13: ""}
)
WIDE = 200  # columns where nobody looks: rows of a table in a pipe are not broken


def visible(text: str) -> str:
    """The text with control characters made visible; carriage returns are dropped."""
    return text.translate(_CONTROLS)


def is_dumb() -> bool:
    """Whether the terminal can't move its cursor."""
    return os.environ.get("TERM", "") in ("dumb", "unknown")


class Screen:
    """A stream to write on, terminal or not."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.terminal = stream.isatty()
        self.movable = self.terminal and not is_dumb()  # a line can be rewritten
        self.colour = self.movable and not os.environ.get("NO_COLOR")

    def write(self, text: str, *, dim: bool = False) -> None:
        """Show a piece of text now."""
        if not text:
            return
        if self.terminal:
            text = visible(text)
        self.stream.write(f"\x1b[2m{text}\x1b[22m" if dim and self.colour else text)
        self.stream.flush()

    def line(self, text: str = "", *, dim: bool = False) -> None:
        self.write(text, dim=dim)
        self.stream.write("\n")
        self.stream.flush()

    def erase_line(self) -> None:
        """Take back what stands on the current line."""
        if self.movable:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


def stdout() -> Screen:
    return Screen(sys.stdout)


def stderr() -> Screen:
    return Screen(sys.stderr)


def interactive() -> bool:
    """Whether lines can be edited: a person at both ends, and a terminal that can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and not is_dumb()


def show_table(table: Table) -> None:
    """Print a table; in a pipe its rows keep one line each."""
    screen, drawn = stdout(), io.StringIO()
    width = None if screen.terminal else WIDE
    Console(file=drawn, width=width, force_terminal=screen.colour, markup=False).print(table)
    for line in drawn.getvalue().splitlines():
        screen.stream.write(line.rstrip() + "\n")


def plain_table(*columns: str, left: int = 1) -> Table:
    """A table without a frame; the first `left` columns are text, the others numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right", no_wrap=True)
    return table
