"""The one way from a model's ids to an answer.

    an id --> text, without half characters --+
    the id of <think>, </think> --------------+--> Parser --> Reasoning, Content, ToolCallDelta
    an id that ends the reply ----------------+--> Finish

A thought is parted by the ids of its tags where the tokenizer has them as tokens (a model that spells a tag
letter by letter only talks about it), else by their text. Everything else works on the text (parser.py).

The reason to finish is honest about what happened: "stop" at an end id or a stop string, "tool_calls" when a
reply that ended so has a call, "length" and "interrupted" when the caller says so. A reply that ended within
its thought has reasoning and no content, whatever the reason. `split_reasoning` and `parse_tool_calls` are
folds over the same parser. Nothing is generated, sampled or executed here.
"""

from collections.abc import Iterator
from typing import Literal, Protocol

from pureqwen.chat.answer.events import Event, Finish, FinishReason
from pureqwen.chat.answer.parser import Parser, ReplyOptions
from pureqwen.chat.answer.thought import END_THINK, THINK
from pureqwen.chat.answer.tools import ToolCall, Tools

_PIECE = 4096  # characters fed at once: keeps the cost of cutting strings linear in a long text


class TextStream(Protocol):
    """Ids in, text out; holds back the bytes of an incomplete character."""

    def push(self, token: int, /) -> str: ...

    def finish(self) -> str: ...


class Decoder(Protocol):
    """What a reply needs of a tokenizer."""

    def stream(self) -> TextStream: ...

    def token_id(self, text: str, /) -> int | None: ...


class Reply:
    """A reply while it is being written. Push each id, show the events, stop when `finish_reason` is set.

    `finish` ends a reply that did not end by itself. `token_ids` are all ids pushed, the end id included;
    `text` is what they say, thought and tags included, without the end id and from a stop string on.
    `reasoning` and `content` are trimmed, None when empty. Reading these joins the whole text: don't do it
    for every token.
    """

    def __init__(self, tokenizer: Decoder, *, options: ReplyOptions | None = None) -> None:
        options = options or ReplyOptions()
        tags = {tokenizer.token_id(tag): tag for tag in (THINK, END_THINK)}
        by_text = None in tags
        self._tags = {} if by_text or not options.enabled else tags
        self._stream = tokenizer.stream()
        self._parser = Parser(options, by_text=by_text)
        self._end_ids, self._min_tokens = options.end_ids, options.min_tokens
        self.finish_reason: FinishReason | None = None
        self.token_ids: list[int] = []

    def push(self, token: int, /) -> list[Event]:
        """The next id of the reply; what it makes known."""
        assert self.finish_reason is None, "this reply is finished"
        self.token_ids.append(token)
        if token in self._end_ids:
            return self.finish("stop")
        self._parser.stoppable = len(self.token_ids) >= self._min_tokens
        text = self._stream.push(token)
        tag = self._tags.get(token)
        if tag is None:
            events = self._parser.feed(text)
        else:
            events = self._parser.feed(text.removesuffix(tag)) + self._parser.tag(tag)
        return events + self.finish("stop") if self._parser.stopped else events

    def finish(self, reason: Literal["stop", "length", "interrupted"] = "length") -> list[Event]:
        """The reply ends here, for this reason; tells what was held back. Nothing if it had ended already."""
        if self.finish_reason is not None:
            return []
        events = self._parser.feed(self._stream.finish()) + self._parser.close()
        ended = reason == "stop" or self._parser.stopped
        self.finish_reason = ("tool_calls" if self._parser.tool_calls else "stop") if ended else reason
        return [*events, Finish(self.finish_reason)]

    @property
    def in_reasoning(self) -> bool:
        """The next id is part of the thought, as far as is known."""
        return self._parser.in_reasoning

    @property
    def holds_call(self) -> bool:
        """If the reply ended here, a call that was begun inside the thought would be its answer."""
        return self._parser.holds_call

    @property
    def text(self) -> str:
        return self._parser.text

    @property
    def reasoning(self) -> str | None:
        return self._parser.reasoning

    @property
    def content(self) -> str | None:
        return self._parser.content

    @property
    def tool_calls(self) -> list[ToolCall]:
        return self._parser.tool_calls


def split_reasoning(text: str, inside: bool = False, enabled: bool = True) -> tuple[str | None, str | None]:
    """(reasoning, content) of a whole reply; both trimmed, None when empty.

    inside: the prompt had opened <think>. enabled: False for a reply without thinking, where a tag is text.
    The reasoning loses the blanks around it, the content the blank lines before it.
    """
    parser = Parser(ReplyOptions(inside=inside, enabled=enabled))
    _read(parser, text)
    return parser.reasoning, parser.content


def parse_tool_calls(
    text: str, style: str = "hermes", tools: Tools | None = None
) -> tuple[str | None, list[ToolCall]]:
    """(content, calls) of an answer; content is what comes before the first call, None when blank.

    style: "hermes" (JSON) or "coder" (XML, whose arguments take their types from the tools' JSON schemas). A
    thought at the beginning is left out first, so that no call in it is found, also one whose opening tag
    stood in the prompt. Malformed calls are content.
    """
    if style not in ("hermes", "coder"):
        raise ValueError(f"style is 'hermes' or 'coder', not {style!r}")
    thinks = text.lstrip().startswith(THINK)
    inside = THINK not in text and END_THINK in text
    parser = Parser(ReplyOptions(inside=inside, enabled=thinks or inside, style=style, tools=tools))
    _read(parser, text)
    return parser.content, parser.tool_calls


def _read(parser: Parser, text: str) -> None:
    for piece in _pieces(text):
        parser.feed(piece)
    parser.close()


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
