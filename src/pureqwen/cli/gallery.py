"""An answer as drawn blocks of Markdown, each drawn once, below the one before, as soon as it is complete.

While a block is being written, a dim line says so; it is erased before the block is drawn. Nothing else is
ever taken back, and nothing is drawn twice: what scrolls out of sight is as it should be.
"""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pureqwen.cli.blocks import Block, Blocks
from pureqwen.cli.terminal import Screen, visible

if TYPE_CHECKING:
    from pureqwen.chat import ToolCall

PATIENCE = 0.3  # seconds of silence before a line says that more is coming
PULSE = 0.1  # seconds between two looks of that line


class Gallery:
    """The drawn blocks of one answer, each below the other."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.blocks = Blocks()
        self.hung = False  # whether there is one
        self.waiting = False  # whether the line below them is there, that says that more is coming
        self.next: float | None = None  # when it may be written

    def push(self, text: str, before: str) -> str:
        """Draw what is complete now, after the newlines `before`; returns those that are still owed."""
        before = self.hang(self.blocks.push(visible(text)), before)
        now = time.monotonic()
        if self.next is None:
            self.next = now + PATIENCE
        if not self.screen.movable or now < self.next:
            return before
        size = len(self.blocks.waiting.strip())
        if not size:
            return before
        if not self.waiting:
            self.screen.write("\n" if self.hung else before)
            before = ""
        self.waiting, self.next = True, now + PULSE
        self.screen.erase_line()
        self.screen.write(f"writing ... {size:,} characters", dim=True)
        return before

    def finish(self, before: str) -> str:
        """Draw what is incomplete; another answer may follow."""
        before = self.hang(self.blocks.finish(), before)
        self.forget()
        self.blocks = Blocks()
        return before

    def hang(self, blocks: Sequence[Block], before: str) -> str:
        from pureqwen.cli.markdown import drawing

        for block in blocks:
            if self.hung:
                before = "\n" * (2 - block.follows - self.waiting)
            self.forget()
            if self.screen.draw(drawing(block), before=before):
                self.hung, before = True, ""
        return before

    def forget(self) -> None:
        """Erase the line that says that more is coming; what is quick needs none."""
        if self.waiting:
            self.screen.erase_line()
        self.waiting, self.next = False, None

    def call(self, call: "ToolCall", before: str) -> None:
        """Draw a tool call: on one line where it fits, else its arguments as indented JSON."""
        from rich.text import Text

        from pureqwen.cli.markdown import code

        name = visible(call.name)
        line = json.dumps(call.arguments, ensure_ascii=False)
        title = Text.assemble(("calls ", "dim"), (name, "bold magenta"))
        if len(name) + len(line) + 8 < self.screen.width:
            highlighted = code(visible(line), "json").highlight(visible(line))
            highlighted.rstrip()
            self.screen.draw(Text.assemble(title, " ", highlighted), before=before)
        else:
            indented = json.dumps(call.arguments, ensure_ascii=False, indent=2)
            self.screen.draw(title, code(visible(indented), "json"), before=before)
