"""Where text is shown: what the terminal can do, and what a model must not do to it.

A model's words are not to be trusted: a terminal obeys escape sequences (move the cursor, set the title,
write the clipboard), so every control character but newline and tab is shown as an escape instead of being
sent. Files and pipes get the words as they are. No markup is ever interpreted.

No colour under NO_COLOR (https://no-color.org), with TERM=dumb, or where the stream is no terminal.
"""

import io
import os
import shutil
import sys
from types import MappingProxyType
from typing import TextIO

from rich.console import Console, RenderableType
from rich.segment import Segment, SegmentLines
from rich.style import Style
from rich.table import Table
from rich.theme import Theme

from pureqwen.cli.wrap import wrapped

_CONTROLS = MappingProxyType(
    {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t\r"}
    | {13: ""}
)
WIDE = 200  # columns where nobody looks: rows of a table in a pipe are not broken
STYLES = Theme(  # of Markdown: no backgrounds, no colour that one of the two kinds of terminal can't show
    {
        **{f"markdown.h{level}": "bold underline" if level < 3 else "bold" for level in range(1, 7)},
        "markdown.code": "cyan",
        "markdown.block_quote": "italic",
        "markdown.table.header": "bold",
        "markdown.table.border": "dim",
    }
)


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
        """Show a text and end the line; one that is too long is broken between words."""
        self.write(wrapped(visible(text), self.width) if self.movable else text, dim=dim)
        self.stream.write("\n")
        self.stream.flush()

    @property
    def width(self) -> int:
        """Columns."""
        return shutil.get_terminal_size().columns if self.terminal else WIDE

    def draw(self, *things: RenderableType, before: str = "") -> bool:
        """Show what rich draws, one thing below the other, after `before` and without a newline at the end.

        Nothing is shown where they draw nothing; returns whether they did. Words in them must be `visible`.
        """
        text = "\n".join(line for thing in things for line in drawn(thing, self.width, colour=self.colour))
        if text:
            self.stream.write(before + text)
            self.stream.flush()
        return bool(text)

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


def drawn(thing: RenderableType, width: int, *, colour: bool) -> list[str]:
    """What rich draws as lines without blanks at their ends, and without empty lines around them."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=colour,
        color_system="auto" if colour else None,
        theme=STYLES,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    lines = [trimmed(line) for line in console.render_lines(thing, pad=False)]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    console.print(SegmentLines(lines, new_lines=True), end="")
    return out.getvalue().split("\n")[:-1]


def trimmed(line: list[Segment]) -> list[Segment]:
    """A line without the blanks that only fill it: who copies it gets what was written."""
    line = list(line)
    while line:
        text, style, control = line.pop()
        kept = text if is_filled(style) else text.rstrip(" ")
        if kept:
            return [*line, Segment(kept, style, control)]
    return []


def is_filled(style: Style | None) -> bool:
    """Whether a blank in this style can be seen."""
    if style is None:
        return False
    return bool(style.reverse or style.underline or (style.bgcolor and not style.bgcolor.is_default))


def show_table(table: Table) -> None:
    """Print a table; in a pipe its rows keep one line each."""
    screen = stdout()
    screen.draw(table)
    screen.line()


def plain_table(*columns: str, left: int = 1) -> Table:
    """A table without a frame; the first `left` columns are text, the others numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right", no_wrap=True)
    return table
