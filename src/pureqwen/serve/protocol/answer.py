"""What the writers of answers share: what they are told (Piece, Opening), and how a stream's events look.

A writer makes one request's answer, as a whole or as server-sent events (WHATWG, "Server-sent events"):

    begin()          what a stream opens with
    piece(Piece)     more of one row's answer
    end(results)     what a stream closes with
    whole(results)   the same as one JSON object
    failure(refusal) what a stream ends with that can't go on; nothing follows, not even [DONE]
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pureqwen.chat import Event
from pureqwen.serve.protocol.refusal import Refusal

if TYPE_CHECKING:
    from pureqwen.generate.result import Logprob, Result

KEEPALIVE = ": keep-alive\n\n"
LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
LOWEST = -9999.0  # JSON has no infinity: what can't be has this log-probability, as at OpenAI's


@dataclass(frozen=True, kw_only=True)
class Piece:
    """News of one row: events, the log-probabilities of its new tokens, the result once it is finished."""

    index: int
    events: Sequence[Event]
    logprobs: Sequence["Logprob"] = ()
    prompt_logprobs: Sequence["Logprob | None"] | None = None  # with a row's first piece, where asked for
    result: "Result | None" = None


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What an answer begins with: its names, and the prompt of each row.

    texts: the prompts as they were read, which an echo repeats; firsts: the first id of each. counts: tokens
    of each. ends: the ids that end an answer. bytes_of tells the bytes of an id.
    """

    id: str
    model: str
    created: int
    texts: Sequence[str]
    firsts: Sequence[int]
    counts: Sequence[int]
    ends: Collection[int]
    bytes_of: Callable[[int], bytes]


class Writer(Protocol):
    """One request's answer in one protocol."""

    def begin(self) -> str: ...

    def piece(self, piece: Piece) -> str: ...

    def end(self, results: Sequence["Result"]) -> str: ...

    def whole(self, results: Sequence["Result"]) -> dict[str, Any]: ...

    def failure(self, refusal: Refusal) -> str: ...


def dumped(value: Any) -> str:
    """JSON on one line, also for clients that take every line break of Unicode for one."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(LINE_BREAKS)


def sent(value: Any, *, event: str | None = None) -> str:
    """One server-sent event."""
    return f"event: {event}\ndata: {dumped(value)}\n\n" if event else f"data: {dumped(value)}\n\n"


def finite(logprob: float) -> float:
    return max(logprob, LOWEST)


def usage(results: Sequence["Result"], *, prompts: int, completion: bool = True) -> dict[str, Any]:
    """OpenAI's usage of a request: each of its `prompts` counts once, however many answers it has.

    completion: False where the answer was no more than the prompt, repeated.
    """
    share = max(len(results) // prompts, 1)
    first = [result.usage for result in results[::share]]
    every = [result.usage for result in results]
    told = sum(one.prompt_tokens for one in first)
    made = sum(one.completion_tokens for one in every) if completion else 0
    return {
        "prompt_tokens": told,
        "completion_tokens": made,
        "total_tokens": told + made,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in first)},
        "completion_tokens_details": {
            "reasoning_tokens": sum(one.reasoning_tokens for one in every) if completion else 0
        },
    }
