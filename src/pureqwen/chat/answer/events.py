"""What a `Reply` tells while it is being written: one frozen dataclass per kind of news.

In the order of their arrival, the texts of `Reasoning` joined are the reply's reasoning, those of `Content`
its content, and the arguments of the `ToolCallDelta`s of one index that call's arguments as JSON. `Finish` is
the last.
"""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "tool_calls", "interrupted"]


@dataclass(frozen=True)
class Reasoning:
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True)
class Content:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class Recast:
    """All that was told as content so far was reasoning after all, and `text` is that reasoning, whole.

    It happens when a model closes a thought that it never opened. Who can't take back what is shown may
    ignore it.
    """

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A tool call, or more of one; `name` comes with the first delta of a call only."""

    index: int
    id: str
    name: str | None
    arguments: str


@dataclass(frozen=True)
class Finish:
    """The reply is complete, and why: by itself, at the limit, with tool calls, or interrupted."""

    reason: FinishReason


Event = Reasoning | Content | Recast | ToolCallDelta | Finish
