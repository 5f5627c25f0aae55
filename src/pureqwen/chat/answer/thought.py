"""Parting the thought from the answer.

              <think>             </think>
    PLAIN ---------------> THOUGHT ---------------> ANSWER
      |                     |   ^                    ^  ^
      |     <tool_call>     |   |                    |  |
      |     <function=      v   |                    |  |
      |                    HELD +-------- </think> --+  |
      |                     +------ the reply ends -----+
      +--- </think>: all of it was a thought (LONE) ----+

The reply begins in PLAIN, or in THOUGHT when the prompt has already opened it, or in ANSWER when there is
nothing to part. One reply has one thought: tags after it are text, and so is <think> within it.

A coder model may begin its call without closing the thought. Only the end of the reply shows whether it did
or was just thinking of a call, so what looks like one is HELD until then: after a `</think>` it was a
thought; without, a complete call is the answer. Nothing that is thought is ever executed, and nothing is
lost.

Tags are named to `tag` (a control token's id told them) or found in the text, never both.
"""

from enum import Enum

from pureqwen.chat.answer.calls import OPEN as TOOL_CALL
from pureqwen.chat.answer.coder import END_FUNCTION, FUNCTION
from pureqwen.chat.answer.search import Search

THINK = "<think>"
END_THINK = "</think>"


class Part(Enum):
    """What a piece of the reply is: text of either kind, or a tag that parts them."""

    THOUGHT = "thought"
    ANSWER = "answer"
    OPEN = "open"
    CLOSE = "close"
    LONE = "lone"  # a </think> without <think>


class State(Enum):
    PLAIN = "plain"
    THOUGHT = "thought"
    HELD = "held"
    ANSWER = "answer"


Piece = tuple[Part, str]


class Splitter:
    """Text and tags in, pieces out. `by_text`: tags are found in the text."""

    def __init__(self, *, inside: bool, enabled: bool, by_text: bool) -> None:
        self._state = (State.THOUGHT if inside else State.PLAIN) if enabled else State.ANSWER
        self._fresh = inside  # nothing was thought yet: a second <think> after the prompt's says nothing
        self._by_text = by_text
        self._tags = Search((THINK, END_THINK))
        self._calls = Search((TOOL_CALL, FUNCTION))
        self._held: list[str] = []  # THOUGHT: <tool_call> and the blanks after it; HELD: the call
        self._out: list[Piece] = []

    @property
    def in_thought(self) -> bool:
        return self._state in (State.THOUGHT, State.HELD)

    @property
    def holds_call(self) -> bool:
        """A whole call was begun without closing the thought: it is the answer, if the reply ends here."""
        return self._state is State.HELD and END_FUNCTION in "".join(self._held)

    def feed(self, text: str) -> list[Piece]:
        at = 0
        while self._by_text and self._state is not State.ANSWER and at < len(text):
            before, tag, at = self._tags.find(text, at)
            self._text(before)
            if tag:
                self._tag(tag)
        self._text(text[at:])
        return self._told()

    def tag(self, tag: str) -> list[Piece]:
        """THINK or END_THINK, as a control token."""
        self._tag(tag)
        return self._told()

    def close(self) -> list[Piece]:
        """What was held back, now that the reply ended."""
        self._text(self._tags.flush())
        if self._state is State.THOUGHT:
            self._release(self._calls.flush())
        elif self._state is State.HELD:
            if self.holds_call:
                self._state = State.ANSWER
            self._release()
        return self._told()

    def _text(self, text: str) -> None:
        match self._state:
            case State.THOUGHT:
                self._think(text)
            case State.HELD:
                self._held.append(text)
            case State.PLAIN | State.ANSWER:
                self._tell(Part.ANSWER, text)

    def _tag(self, tag: str) -> None:
        match self._state, tag:
            case State.PLAIN, "<think>":
                self._tell(Part.OPEN, tag)
                self._state = State.THOUGHT
            case State.PLAIN, _:
                self._tell(Part.LONE, tag)
                self._state = State.ANSWER
            case State.THOUGHT, "<think>" if self._fresh:
                self._tell(Part.OPEN, tag)
            case ((State.THOUGHT | State.HELD), "</think>"):
                self._release(self._calls.flush())
                self._tell(Part.CLOSE, tag)
                self._state = State.ANSWER
            case _:
                self._text(tag)

    def _think(self, text: str) -> None:
        self._fresh = self._fresh and not text.strip()
        at = 0
        while at < len(text):
            before, tag, at = self._calls.find(text, at)
            if self._held and not before.strip():
                self._held.append(before)
            else:
                self._release(before)
            if tag == TOOL_CALL:
                self._release()
                self._held.append(tag)
            elif tag and self._held:
                self._held += [tag, text[at:]]
                self._state = State.HELD
                return
            elif tag:
                self._release(tag)

    def _release(self, text: str = "") -> None:
        """The text held, and this one after it, is what the state says."""
        part = Part.ANSWER if self._state is State.ANSWER else Part.THOUGHT
        self._tell(part, "".join(self._held) + text)
        self._held = []

    def _tell(self, part: Part, text: str) -> None:
        if text:
            self._out.append((part, text))

    def _told(self) -> list[Piece]:
        told, self._out = self._out, []
        return told
