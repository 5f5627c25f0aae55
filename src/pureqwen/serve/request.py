"""What is told about a request, and what the engine knows of it. It imports no torch.

submit(row, listen) -> Ticket        the engine calls listen(Update) as the answer grows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pureqwen.chat import Event
    from pureqwen.generate import Row


class Busy(ValueError):
    """The queue is full: come again later."""


class Stopping(Busy):
    """The engine takes no more requests, since it stops or has stopped."""


class Failed(RuntimeError):
    """The step that computed this request crashed; what it raised is the cause."""


@dataclass(frozen=True)
class Update:
    """More of a request's answer. The last one has `row.finished`, or an error."""

    events: Sequence[Event]
    row: Row
    error: Exception | None = None


Listen = Callable[[Update], None]


@dataclass(frozen=True, eq=False)
class Ticket:
    """What `Engine.submit` hands out: names the request for `Engine.abort`."""

    id: str
    row: Row


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The engine as it was after its last step; what counts grows from its start on.

    prompt_tokens are those of the requests that were begun, cached_tokens those of them that had not to be
    computed, computed_tokens all that went through the model, also what was computed again or drafted in
    vain. last_step is time.monotonic() at the end of the last step (None: there was none), step_seconds how
    long it took.
    """

    waiting: int = 0
    running: int = 0
    pages_total: int = 0
    pages_used: int = 0
    pages_cached: int = 0
    page_size: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    computed_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    failures: int = 0
    last_step: float | None = None
    step_seconds: float = 0.0
