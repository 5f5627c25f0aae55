"""From the text of a reply to its parts: the machine behind `Reply`, `split_reasoning`, `parse_tool_calls`.

    text, tags --> Splitter --+-- thought --> Trim -----------------------------> Reasoning, Recast
                              |
                              +-- answer ---> Trim --> stops --> CallFinder --+-> Content
                                                         |                    |
                                         a stop string: nothing more          +-> ToolCallDelta

Stop strings are looked for in the answer alone, as the user sees it (after the blank lines that follow a
thought), the text of tool calls included. Whichever way the text is cut into pieces, the same comes out. It
knows no ids, no incomplete characters and no reason to finish: that is `Reply`'s part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pureqwen.chat.answer.calls import CallFinder, Calls
from pureqwen.chat.answer.coder import Coder
from pureqwen.chat.answer.events import Content, Event, Reasoning, Recast, ToolCallDelta
from pureqwen.chat.answer.hermes import Hermes
from pureqwen.chat.answer.search import Search
from pureqwen.chat.answer.thought import Part, Piece, Splitter
from pureqwen.chat.answer.tools import ToolCall, Tools

STYLES: tuple[str | None, ...] = ("hermes", "coder", None)


@dataclass(frozen=True)
class ReplyOptions:
    """How a reply is to be read.

    raw: a text that is continued, not an answer: the blank lines before it stay.
    inside: the prompt ended within <think>. enabled: part reasoning from content (False: a tag is text).
    style: how tool calls are written; None: they are text. tools: their JSON schemas, which type the
    arguments of "coder". stop: strings that end the answer, looked for once it has `min_tokens` ids. end_ids:
    ids that end it, excluded from the text. call_prefix: calls are named by it and their index. calls: where
    they may stand, as its form has it.
    """

    inside: bool = False
    raw: bool = False
    enabled: bool = True
    style: str | None = None
    tools: Tools | None = None
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    end_ids: frozenset[int] = frozenset()
    call_prefix: str = "call_"
    calls: Calls = "anywhere"

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style is 'hermes', 'coder' or None, not {self.style!r}")
        if isinstance(self.stop, str) or not all(isinstance(stop, str) and stop for stop in self.stop):
            raise ValueError(f"stop is a tuple of strings that are not empty, not {self.stop!r}")


class Trim:
    """A text that arrives in pieces, without the blanks at its start and, unless `keep_end`, at its end.

    Of the start only whole blank lines go when the end is kept: an answer may begin with an indented line.
    """

    def __init__(self, *, keep_end: bool) -> None:
        self._keep_end = keep_end
        self._begun = False
        self._blank: list[str] = []  # may turn out to be the end

    def feed(self, text: str) -> str:
        if not text.strip():
            if self._begun and self._keep_end:
                return text
            self._blank.append(text)
            return ""
        text = "".join(self._blank) + text
        if not self._begun:
            body = text.lstrip()
            margin = text[: len(text) - len(body)].rpartition("\n")[2]
            text = margin + body if self._keep_end else body
        body = text if self._keep_end else text.rstrip()
        self._begun, self._blank = True, [text[len(body) :]]
        return body


class Parser:
    """Text and think tags in, events out; `close` when the reply ends.

    by_text: find the think tags in the text.
    """

    def __init__(self, options: ReplyOptions, *, by_text: bool = True) -> None:
        self._raw = options.raw
        self._splitter = Splitter(inside=options.inside, enabled=options.enabled, by_text=by_text)
        self._thought = Trim(keep_end=False)
        self._answer = Trim(keep_end=True)
        self._stops = Search(options.stop)
        self._calls = _finder(options)
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._text: list[str] = []
        self._events: list[Event] = []
        self.tool_calls: list[ToolCall] = []
        self.stoppable = True  # stop strings are looked for
        self.stopped = False  # a stop string came

    def feed(self, text: str) -> list[Event]:
        """More text."""
        return self._take(self._splitter.feed, text)

    def tag(self, tag: str) -> list[Event]:
        """A think tag that came as a control token (with by_text=False)."""
        return self._take(self._splitter.tag, tag)

    def close(self) -> list[Event]:
        """The reply ended: tell what was held back."""
        if not self.stopped:
            self._dispatch(self._splitter.close())
            self._end_answer()
        return self._told()

    @property
    def in_reasoning(self) -> bool:
        return self._splitter.in_thought

    @property
    def holds_call(self) -> bool:
        return self._splitter.holds_call

    @property
    def text(self) -> str:
        """All that was let through, tags, thought and calls included, from a stop string on excluded."""
        written = "".join(self._text)
        return written[: len(written) - len(self._stops.held)]

    @property
    def reasoning(self) -> str | None:
        return "".join(self._reasoning) or None

    @property
    def content(self) -> str | None:
        return "".join(self._content) or None

    def _take(self, read: Callable[[str], list[Piece]], text: str) -> list[Event]:
        if not self.stopped:
            self._dispatch(read(text))
        return self._told()

    def _dispatch(self, pieces: list[Piece]) -> None:
        for part, text in pieces:
            if self.stopped:
                return
            if part is not Part.ANSWER and part is not Part.THOUGHT:
                self._end_answer()
            self._text.append(text)
            match part:
                case Part.ANSWER:
                    self._read_answer(text)
                case Part.THOUGHT if thought := self._thought.feed(text):
                    self._reasoning.append(thought)
                    self._tell(Reasoning(thought))
                case Part.LONE:
                    self._recast()

    def _read_answer(self, text: str) -> None:
        if not self._raw:
            text = self._answer.feed(text)
        before, stop, at = self._stops.find(text) if self.stoppable else (text, None, len(text))
        self._find_calls(before)
        if stop:
            self.stopped = True
            written = "".join(self._text)
            self._text = [written[: len(written) - len(stop) - len(text) + at]]
            self._end_answer()

    def _end_answer(self) -> None:
        """Nothing held back in the answer can grow any more. Another answer may begin after a thought."""
        self._find_calls(self._stops.flush())
        if self._calls:
            self._answered(self._calls.close())
        self._answer = Trim(keep_end=True)

    def _find_calls(self, text: str) -> None:
        self._answered(self._calls.feed(text) if self._calls else [text])

    def _answered(self, found: Sequence[str | ToolCall]) -> None:
        for item in found:
            if isinstance(item, ToolCall):
                self._tell(ToolCallDelta(len(self.tool_calls), item.id, item.name, item.arguments_json))
                self.tool_calls.append(item)
            elif item:
                self._content.append(item)
                self._tell(Content(item))

    def _recast(self) -> None:
        """A thought was closed that was never opened: what is told as content was that thought."""
        thought = "".join(self._content).strip()
        if thought and not self.tool_calls:
            self._reasoning, self._content = [thought], []
            self._tell(Recast(thought))

    def _tell(self, event: Event) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(event, Content) and isinstance(last, Content):
            self._events[-1] = Content(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            self._events[-1] = Reasoning(last.text + event.text)
        else:
            self._events.append(event)

    def _told(self) -> list[Event]:
        told, self._events = self._events, []
        return told


def _finder(options: ReplyOptions) -> CallFinder | None:
    if options.style is None:
        return None
    reader = Hermes() if options.style == "hermes" else Coder(options.tools)
    return CallFinder(reader, prefix=options.call_prefix, calls=options.calls)
