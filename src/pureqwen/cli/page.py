"""The page that an answer is written on, event by event: for `generate` and `chat` alike.

    show    the thinking (dimmed, or between <think> tags), a blank line, the answer
    fold    one line in the thinking's place: thought 3.2 s, 214 tokens
    hide    the answer alone

The answer comes as plain text, word by word; or, with `markdown`, block by block: each is drawn once, when it
is complete (gallery.py). Newlines are held back
until something follows them, so a page ends with exactly one.
"""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pureqwen.chat.answer.events import Content, Event, Reasoning, Recast
from pureqwen.cli.gallery import Gallery
from pureqwen.cli.terminal import Screen, visible
from pureqwen.cli.wrap import Wrap

if TYPE_CHECKING:
    from pureqwen.generate import Result

Thinking = Literal["show", "fold", "hide"]


class Page:
    """Shows the events of one answer on a screen. `tags`: the thinking stands between think tags."""

    def __init__(
        self,
        screen: Screen,
        *,
        thinking: Thinking,
        tags: bool = True,
        markdown: bool = False,
        result: Callable[[], "Result"] | None = None,
    ) -> None:
        """`result` gives the answer so far; a folded thought asks it for its number of tokens."""
        self.screen, self.thinking, self.tags, self.result = screen, thinking, tags, result
        self.began: float | None = None  # when the thought began; None outside of one
        self.held = ""  # newlines that wait for what follows
        self.empty = True
        self.gallery = Gallery(screen) if markdown else None
        self.wrap: Wrap | None
        self.begin_line()

    def show(self, event: Event) -> None:
        if isinstance(event, Reasoning):
            self.open()
            if self.thinking == "show":
                self.write(event.text, dim=True)
        elif isinstance(event, Content):
            self.close()
            if self.gallery is None:
                self.write(event.text)
            else:
                self.held = self.gallery.push(event.text, self.held)
        elif isinstance(event, Recast):
            self.close()
            self.finish()
            self.gallery, self.held = self.gallery and Gallery(self.screen), ""
            self.screen.line()
            self.screen.line("(what stands above turned out to be thinking)", dim=True)
            self.begin_line()

    def end(self, result: "Result") -> None:
        """The tool calls, drawn, or a JSON object on a line each, and the last newline."""
        self.close()
        self.finish()
        for call in result.tool_calls:
            if self.gallery is None:
                self.held = "" if self.empty else "\n"
                self.put(json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False))
            else:
                self.gallery.call(call, before="" if self.empty else self.held[:2] or "\n")
                self.held, self.empty = "", False
        self.screen.line()

    def open(self) -> None:
        """The thought begins."""
        if self.began is not None:
            return
        self.began = time.monotonic()
        if self.thinking == "show" and self.tags:
            self.screen.line("<think>", dim=True)
        elif self.thinking == "fold" and self.screen.movable:
            self.screen.write("thinking ...", dim=True)

    def close(self) -> None:
        """The thought is over, if there was one; the answer begins with its first character."""
        if self.began is None:
            return
        if self.wrap is not None:
            self.put(self.wrap.finish(), dim=True)
        seconds, self.began, self.held = time.monotonic() - self.began, None, ""
        if self.thinking == "show":
            if self.tags:
                self.screen.write("\n</think>", dim=True)
            self.held = "\n\n"
            self.begin_line()
        elif self.thinking == "fold":
            self.screen.erase_line()
            count = self.result().usage.reasoning_tokens if self.result else 0
            self.screen.line(f"thought {seconds:.1f} s, {count:,} tokens", dim=True)

    def begin_line(self) -> None:
        """What is written next stands at the beginning of a line."""
        self.wrap = Wrap(self.screen.width) if self.screen.movable else None

    def finish(self) -> None:
        """Show what is left of the answer: it ended, or was stopped, within a word or a block."""
        if self.wrap is not None:
            self.put(self.wrap.finish())
        if self.gallery is not None:
            self.held = self.gallery.finish(self.held)
            self.empty = self.empty and not self.gallery.hung

    def write(self, text: str, *, dim: bool = False) -> None:
        self.put(self.wrap.push(visible(text)) if self.wrap else text, dim=dim)

    def put(self, text: str, *, dim: bool = False) -> None:
        text = self.held + text
        body = text.rstrip("\n")
        self.held = text[len(body) :]
        self.empty = self.empty and not body
        self.screen.write(body, dim=dim)
