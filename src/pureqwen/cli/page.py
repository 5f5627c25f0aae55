"""The page that an answer is written on, event by event: for `generate` and `chat` alike.

    show    the thinking (dimmed, or between <think> tags), a blank line, the answer
    fold    one line in the thinking's place: thought 3.2 s, 214 tokens
    hide    the answer alone

Newlines are held back until something follows them, so a page ends with exactly one.
"""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pureqwen.chat.answer.events import Content, Event, Reasoning, Recast
from pureqwen.cli.terminal import Screen

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
        result: Callable[[], "Result"] | None = None,
    ) -> None:
        """`result` gives the answer so far; a folded thought asks it for its number of tokens."""
        self.screen, self.thinking, self.tags, self.result = screen, thinking, tags, result
        self.began: float | None = None  # when the thought began; None outside of one
        self.held = ""  # newlines that wait for what follows
        self.empty = True

    def show(self, event: Event) -> None:
        if isinstance(event, Reasoning):
            self.open()
            if self.thinking == "show":
                self.write(event.text, dim=True)
        elif isinstance(event, Content):
            self.close()
            self.write(event.text)
        elif isinstance(event, Recast):
            self.close()
            self.held = ""
            self.screen.line()
            self.screen.line("(what stands above turned out to be thinking)", dim=True)

    def end(self, result: "Result") -> None:
        """The tool calls, a JSON object on a line each, and the last newline."""
        self.close()
        for call in result.tool_calls:
            self.held = "" if self.empty else "\n"
            self.write(json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False))
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
        seconds, self.began, self.held = time.monotonic() - self.began, None, ""
        if self.thinking == "show":
            if self.tags:
                self.screen.write("\n</think>", dim=True)
            self.held = "\n\n"
        elif self.thinking == "fold":
            self.screen.erase_line()
            count = self.result().usage.reasoning_tokens if self.result else 0
            self.screen.line(f"thought {seconds:.1f} s, {count:,} tokens", dim=True)

    def write(self, text: str, *, dim: bool = False) -> None:
        text = self.held + text
        body = text.rstrip("\n")
        self.held = text[len(body) :]
        self.empty = self.empty and not body
        self.screen.write(body, dim=dim)
