"""Finding the tool calls in an answer, whichever way they are written.

                                +---+ a call is complete: it is told, another may follow
                                v   |
    TEXT -- <tool_call> etc. --> CALL -- it goes wrong --> BROKEN -- <tool_call> etc. --> CALL
     ^                            |                          |
     +---- no call after it ------+                          |
     +-------------------- </tool_call> ---------------------+

How a call is written is the business of a `CallReader` (hermes.py, coder.py); here is what holds for both:
- A call is told when it is complete, in one piece: news can't be taken back, and half a call must not be
  executed.
- Content is the text before the first call. What follows is searched for more calls only: the line breaks
  between calls, but also remarks, are no content.
- A malformed call is never executed and not lost: it is content, unless it is directly followed by a good one
  (the model tried again). So it waits, with the blanks after it, for what comes.
- What is unfinished at the end of the reply was no call: it is content.
An answer that is held to a form has its calls where the form says (`Calls`), and what is unfinished there was
cut: it is not told.
Each character is read once, or twice where a tag was begun and not completed.
"""

from enum import Enum
from typing import Literal, NamedTuple, Protocol

from pureqwen.chat.answer.search import Search
from pureqwen.chat.answer.tools import ToolCall

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
# Where calls may stand. anywhere: wherever the model writes one. whole: likewise, each of them well-formed
# unless the answer was cut. alone: likewise, and none in an answer that begins as text.
Calls = Literal["anywhere", "whole", "alone"]


class Verdict(Enum):
    """What a reader says of the text it was given."""

    MORE = "more"  # all read, nothing decided
    CALL = "call"  # a call ended here
    PROSE = "prose"  # not even the beginning of one
    BROKEN = "broken"  # one that went wrong


class Step(NamedTuple):
    """A reader's answer."""

    verdict: Verdict
    at: int  # how far it read
    call: ToolCall | None = None
    again: str = ""  # the end of what it read, when that may be the beginning of another call


class CallReader(Protocol):
    """Reads one call after the other in one way of writing them."""

    @property
    def opens(self) -> tuple[str, ...]:
        """The tags that may begin a call."""

    def begin(self, tag: str, /) -> None:
        """Start reading after this tag, or after another call ("")."""

    def feed(self, text: str, at: int, /) -> Step:
        """Read text from `at`; MORE means that all was read."""


class State(Enum):
    TEXT = "text"
    CALL = "call"
    BROKEN = "broken"


class CallFinder:
    """Text in, content and calls out. `prefix` begins the calls' ids, their index ends them."""

    def __init__(self, reader: CallReader, *, prefix: str = "call_", calls: Calls = "anywhere") -> None:
        self._reader = reader
        self._calls = calls
        self._spoke = False  # there was text before any call
        self._prefix = prefix
        self._state = State.TEXT
        self._tags = Search(reader.opens)
        self._ends = Search((*reader.opens, CLOSE))
        self._candidate: list[str] = []  # the call being read, as written
        self._doubt: list[str] = []  # malformed calls and the blanks after them
        self._out: list[str | ToolCall] = []
        self._count = 0

    def feed(self, text: str) -> list[str | ToolCall]:
        """Content and calls, as far as this text decides them."""
        self._read(text)
        return self._told()

    def close(self) -> list[str | ToolCall]:
        """What was held back, now that the answer ended; ready for another answer."""
        tag, call = self._tags.flush(), "".join(self._candidate) + self._ends.flush()
        if self._calls != "anywhere":
            call = ""
        if self._calls == "alone" and not self._spoke:  # the beginning of a tag
            tag = ""
        self._candidate, self._state, self._spoke = [], State.TEXT, False
        self._release(tag + call)
        return self._told()

    def _read(self, text: str) -> None:
        at = 0
        while at < len(text):
            match self._state:
                case State.TEXT:
                    before, tag, at = self._tags.find(text, at)
                    self._say(before)
                    self._spoke |= not self._count and bool(before.strip())
                    if tag and self._calls == "alone" and self._spoke:
                        self._say(tag)
                    elif tag:
                        self._begin(tag)
                case State.CALL:
                    at = self._read_call(text, at)
                case State.BROKEN:
                    before, tag, at = self._ends.find(text, at)
                    self._doubt.append(before)
                    self._resume(tag)

    def _read_call(self, text: str, at: int) -> int:
        step = self._reader.feed(text, at)
        self._candidate.append(text[at : step.at])
        if step.verdict is Verdict.CALL:
            assert step.call is not None
            self._out.append(ToolCall(step.call.name, step.call.arguments, id=f"{self._prefix}{self._count}"))
            self._count += 1
            self._doubt.clear()
            self._begin("")
        elif step.verdict is not Verdict.MORE:
            self._give_up(step)
        return step.at

    def _give_up(self, step: Step) -> None:
        written = "".join(self._candidate)
        written = written[: len(written) - len(step.again)]
        self._candidate = []
        if step.verdict is Verdict.PROSE:
            self._state = State.TEXT
            self._say(written)
        else:
            self._state = State.BROKEN
            self._doubt.append(written)
        self._read(step.again)

    def _resume(self, tag: str | None) -> None:
        if tag == CLOSE:
            self._doubt.append(tag)
            self._state = State.TEXT
        elif tag:
            self._begin(tag)

    def _begin(self, tag: str) -> None:
        self._candidate = [tag]
        self._state = State.CALL
        self._reader.begin(tag)

    def _say(self, text: str) -> None:
        if self._doubt and not text.strip():
            self._doubt.append(text)
        else:
            self._release(text)

    def _release(self, text: str) -> None:
        text = "".join(self._doubt) + text
        self._doubt.clear()
        if text and not self._count:
            self._out.append(text)

    def _told(self) -> list[str | ToolCall]:
        told, self._out = self._out, []
        return told
