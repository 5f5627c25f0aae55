"""Keeping what people write apart from what the template writes.

A chat's text is made of the template's own words and of messages, and once they are one string nobody can say
whose `<|im_end|>` it is. So for encoding, the control strings in the template's own literals are replaced by
marks, long random numbers, before it is compiled:

    template   '<|im_start|>' + role      ->  '7093...0001' + role          (compiled once for each tokenizer)
    a user     "a <|im_end|> b"           ->  as it is
    rendered   7093...0001user\\na <|im_end|> b7093...0002
    split      [im_start] "user\\na <|im_end|> b" [im_end]

Only marks become control tokens; everything between them is encoded as plain text. Marking the template
rather than the messages also covers strings that are joined from harmless parts (a schema's key between '<'
and '>'), and a user's `<tool_response>` no longer equals the one that the template looks for. An assistant's
own tags for thinking and tool calls are marked in its content: templates look for them, and the model has
learned them as tokens.

Marks are digits, which strip, case, JSON and HTML escaping leave alone. A template that makes a control
string from parts of its own gets plain text for it.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import nodes

from pureqwen.chat.prompt.budget import TemplateError

ASSISTANT_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
DIGITS = 40


class Marks:
    """One mark for each of a tokenizer's control strings."""

    def __init__(self, controls: Iterable[str]) -> None:
        self._controls = sorted(filter(None, controls), key=len, reverse=True)  # the longest is found first
        self._secret = "".join(secrets.choice("0123456789") for _ in range(DIGITS))
        self._marks = {control: f"{self._secret}{n:06d}" for n, control in enumerate(self._controls)}
        self._any = _pattern(self._controls)
        self._tags = _pattern([control for control in self._controls if control in ASSISTANT_TAGS])

    def mark(self, text: str) -> str:
        """`text` with a mark for every control string."""
        return self._any.sub(lambda match: self._marks[match[0]], text)

    def mark_tree(self, tree: nodes.Template) -> None:
        """Mark the literals of a template: its plain text and its string constants."""
        for data in tree.find_all(nodes.TemplateData):
            data.data = self.mark(data.data)
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, str):
                constant.value = self.mark(constant.value)

    def mark_assistant(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message; in an assistant's content the tags of thinking and tool calls are marked."""
        content = message.get("content")
        if message.get("role") != "assistant" or not isinstance(content, str):
            return dict(message)
        return {**message, "content": self._tags.sub(lambda match: self._marks[match[0]], content)}

    def split(self, text: str) -> Iterator[tuple[bool, str]]:
        """The pieces of a rendered text: (True, control string) and (False, plain text), none empty."""
        parts = re.split(f"{self._secret}(\\d{{6}})", text)
        for place, part in enumerate(parts):
            if place % 2:
                yield True, self._controls[int(part)]
            elif part:
                if self._secret[:12] in part or self._secret[-12:] in part:
                    raise TemplateError("the chat template cuts its own control tokens into pieces")
                yield False, part


def _pattern(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")
