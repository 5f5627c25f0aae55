"""Leaving the last message of a chat open, so that the model goes on with it.

A template closes every message, and nobody can say from outside where a message's text ends in what it made.
So the end of the last message is tagged before rendering, and the result is cut at the tag.
"""

import secrets
from collections.abc import Callable
from typing import Any

from pureqwen.chat.prompt.messages import REASONING_FIELDS


def open_final(chat: list[dict[str, Any]], field: str, *, source: str) -> Callable[[str], str]:
    """Tag the end of the last message; returns the function that cuts a rendered text there."""
    final = chat[-1].get(field)
    if final is None:
        raise ValueError(f"continue_final_message: the last message has no {field!r} to continue")
    fields = [field]
    if field in REASONING_FIELDS:
        fields = [name for name in REASONING_FIELDS if chat[-1].get(name) == final]
    if not any(name in source for name in fields):
        raise ValueError(f"continue_final_message: the chat template doesn't read the field {field!r}")
    tag = "".join(secrets.choice("0123456789") for _ in range(40))
    if isinstance(final, list):
        part = next((part for part in reversed(final) if isinstance(part, dict) and "text" in part), None)
        if part is None:
            raise ValueError("continue_final_message: the last message has no text to continue")
        final = part["text"]
        part["text"] = f"{final}{tag} "
    else:
        for name in fields:
            chat[-1][name] = f"{final}{tag} "
    return lambda text: _cut(text, tag, str(final))


def _cut(text: str, tag: str, final: str) -> str:
    if final.strip() not in text or tag not in text:
        raise ValueError(
            "continue_final_message: the template leaves out the last message or a part of it, "
            "so it can't be continued"
        )
    head, _, tail = text.rpartition(tag)
    # A space went behind the tag. A template that took it away trims, and would have trimmed the message too.
    return head if tail.startswith(" ") else head.rstrip()
