"""Reading a tool call as Qwen3-Coder writes it:

    <tool_call>                                  OPENING
    <function=write_file>                        NAME
    <parameter=path>                             BETWEEN, KEY
    a.py                                         VALUE
    </parameter>                                 VALUE, perhaps closed
    </function>                                  BETWEEN: the call is complete
    </tool_call>

A value is bare text, less one line break at either side, and its type comes from the tool's JSON schema.
Since it may contain anything, `</parameter>` ends it only where another tag of the call follows;
`<parameter=` and `</function>` end it too (the model forgot to close). The models forget <tool_call> or
</tool_call> at times: <function= begins a call, and </function> completes it. Text between parameters is a
malformed call: an argument may be lost in it.
"""

import re
from enum import Enum

from pureqwen.chat.answer.calls import CLOSE, OPEN, Step, Verdict
from pureqwen.chat.answer.search import Search
from pureqwen.chat.answer.tools import ToolCall, Tools, parameter_types, typed

FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"

_BLANK = re.compile(r"\s*")
_WORD_END = re.compile(r"[>\n<]")


class State(Enum):
    OPENING = "opening"
    NAME = "name"
    BETWEEN = "between"
    KEY = "key"
    VALUE = "value"


class Coder:
    """A `CallReader`: XML-like tags after <tool_call>, or without it."""

    opens = (OPEN, FUNCTION)

    def __init__(self, tools: Tools | None = None) -> None:
        self._tools = tools
        self._tags = Search((FUNCTION, END_FUNCTION, PARAMETER, END_PARAMETER, OPEN, CLOSE))

    def begin(self, tag: str, /) -> None:
        self._state = State.NAME if tag == FUNCTION else State.OPENING
        self._matched = 0  # OPENING: characters of <function= that came
        self._word: list[str] = []  # NAME, KEY: their text so far
        self._name = self._key = ""
        self._value: list[str] = []
        self._tail: list[str] = []  # VALUE: </parameter> and blanks, which end the value or belong to it
        self._texts: dict[str, str] = {}  # the arguments as written
        self._tags.flush()

    def feed(self, text: str, at: int, /) -> Step:
        step = Step(Verdict.MORE, at)
        while step.verdict is Verdict.MORE and step.at < len(text):
            match self._state:
                case State.OPENING:
                    step = self._open(text, step.at)
                case State.NAME | State.KEY:
                    step = self._read_word(text, step.at)
                case State.BETWEEN:
                    step = self._between(*self._tags.find(text, step.at))
                case State.VALUE:
                    step = self._read_value(*self._tags.find(text, step.at))
        return step

    def _open(self, text: str, at: int) -> Step:
        if not self._matched:
            blank = _BLANK.match(text, at)
            assert blank is not None
            at = blank.end()
        while at < len(text) and self._matched < len(FUNCTION):
            if text[at] != FUNCTION[self._matched]:
                return Step(Verdict.PROSE, at, again=FUNCTION[: self._matched])
            at, self._matched = at + 1, self._matched + 1
        if self._matched == len(FUNCTION):
            self._state = State.NAME
        return Step(Verdict.MORE, at)

    def _read_word(self, text: str, at: int) -> Step:
        end = _WORD_END.search(text, at)
        self._word.append(text[at : end.start() if end else len(text)])
        if end is None:
            return Step(Verdict.MORE, len(text))
        word = "".join(self._word).strip()
        if end.group() != ">" or not word:
            return Step(Verdict.BROKEN, end.start())
        self._word = []
        if self._state is State.NAME:
            self._name, self._state = word, State.BETWEEN
        else:
            self._key, self._value, self._state = word, [], State.VALUE
        return Step(Verdict.MORE, end.end())

    def _between(self, before: str, tag: str | None, at: int) -> Step:
        if before.strip():
            return Step(Verdict.BROKEN, at, again=tag or self._tags.flush())
        if tag == PARAMETER:
            self._state = State.KEY
        elif tag in (END_FUNCTION, CLOSE):
            return Step(Verdict.CALL, at, self._call())
        elif tag:
            return Step(Verdict.BROKEN, at, again=tag)
        return Step(Verdict.MORE, at)

    def _read_value(self, before: str, tag: str | None, at: int) -> Step:
        if self._tail and not before.strip():
            self._tail.append(before)
        else:
            self._take(before)
        if tag in (PARAMETER, END_FUNCTION) or (tag == CLOSE and self._tail):
            self._texts[self._key] = _unwrapped("".join(self._value))
            self._tail = []
            return self._between("", tag, at)
        if tag:
            self._take()
            (self._tail if tag == END_PARAMETER else self._value).append(tag)
        return Step(Verdict.MORE, at)

    def _take(self, text: str = "") -> None:
        """The tail ended nothing: it is part of the value, and so is this text."""
        self._value += [*self._tail, text]
        self._tail = []

    def _call(self) -> ToolCall:
        types = parameter_types(self._tools, self._name)
        arguments = {key: typed(text, types.get(key, ())) for key, text in self._texts.items()}
        return ToolCall(self._name, arguments)


def _unwrapped(value: str) -> str:
    return value.removeprefix("\n").removesuffix("\n")
