"""Reading a tool call as most Qwen3 models write it (Nous Research's Hermes function calling format):

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

    after the tag, blanks -- { --> JSON -- its last brace --> a call
          |                         |
          other: prose              a "<" or a line break where JSON has none: broken

Brackets are counted outside of strings, so that a `</tool_call>` within a string is text, and the call is
complete at its last brace, whatever follows. The JSON is parsed once, then. It does not repair JSON.
"""

import re
from typing import Any

from pureqwen.chat.answer.calls import OPEN, Step, Verdict
from pureqwen.chat.answer.tools import MAX_DEPTH, ToolCall, json_value

_BLANK = re.compile(r"\s*")
_BARE = re.compile(r'["{}\[\]<]')
_QUOTED = re.compile(r'["\\\n]')


class Hermes:
    """A `CallReader`: JSON after <tool_call>."""

    opens = (OPEN,)

    def begin(self, tag: str, /) -> None:
        self._parts: list[str] = []
        self._depth = 0  # open brackets; 0 is "not begun"
        self._quoted = self._escaped = False

    def feed(self, text: str, at: int, /) -> Step:
        if not self._depth:
            blank = _BLANK.match(text, at)
            assert blank is not None
            at = blank.end()
            if at < len(text) and text[at] != "{":
                return Step(Verdict.PROSE, at)
        verdict, end = self._scan(text, at)
        self._parts.append(text[at:end])
        if verdict is Verdict.CALL:
            try:
                return Step(Verdict.CALL, end, _call(json_value("".join(self._parts))))
            except ValueError:
                return Step(Verdict.BROKEN, end)
        return Step(verdict, end)

    def _scan(self, text: str, at: int) -> tuple[Verdict, int]:
        """To the bracket that closes the first one, if it is in this text."""
        if self._escaped and at < len(text):
            at, self._escaped = at + 1, False
        while mark := (_QUOTED if self._quoted else _BARE).search(text, at):
            at = mark.end()
            match mark.group():
                case '"':
                    self._quoted = not self._quoted
                case "\\":
                    self._escaped = at == len(text)
                    at = min(at + 1, len(text))
                case "{" | "[":
                    self._depth += 1
                    if self._depth > MAX_DEPTH:
                        return Verdict.BROKEN, at
                case "}" | "]":
                    self._depth -= 1
                    if not self._depth:
                        return Verdict.CALL, at
                case _:  # "<" or a line break in a string: it may begin a tag, so it is not taken
                    return Verdict.BROKEN, mark.start()
        return Verdict.MORE, len(text)


def _call(value: dict[str, Any]) -> ToolCall:
    name, arguments = value.get("name"), value.get("arguments")
    if isinstance(arguments, str):  # already serialised: not to be encoded twice
        arguments = json_value(arguments)
    arguments = {} if arguments is None else arguments
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError("a tool call has a name and arguments")
    return ToolCall(name, arguments)
