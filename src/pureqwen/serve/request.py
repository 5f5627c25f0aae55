"""What is told about a request, and what the engine knows of it. It imports no torch.

submit(row, listen) -> Ticket        the engine calls listen(Update) as the answer grows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pureqwen.cache.pages import page_key, root_key

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
    """The engine as it stands; what counts grows from its start on.

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


class Request:
    """A row on its way through the engine.

    number: how many came before it, which is its place in every queue. salt: only requests of the same one
    share pages. listen: who is told of its answer.
    """

    def __init__(
        self, row: Row, *, number: int, page_size: int, salt: str = "", listen: Listen = lambda _: None
    ) -> None:
        self.row, self.number, self.page_size, self.salt, self.listen = row, number, page_size, salt, listen
        self.pages: list[int] = []
        self.num_published = 0  # of its pages, from the first on
        self.num_scored = 0  # of its prompt's logits that were asked for
        self.reached = 0  # tokens that it has had computed, before a preemption too
        self._keys = [root_key(salt)]

    @property
    def name(self) -> str:
        """How tickets call it."""
        return str(self.number)

    @property
    def remaining(self) -> int:
        """Tokens that are still to be computed before the next one can be chosen."""
        return len(self.row.ids) - self.row.num_computed

    @property
    def num_shareable(self) -> int:
        """Full pages of its text that need not be its own: the last token is computed in any case, since the
        next one follows from its logits.
        """
        return (len(self.row.ids) - 1) // self.page_size

    @property
    def next_page(self) -> int:
        """The number, in its text, of the page that its next token goes to."""
        return self.row.num_computed // self.page_size

    @property
    def between_pages(self) -> bool:
        """Its next token begins a page."""
        return self.row.num_computed % self.page_size == 0

    def key(self, number: int) -> bytes:
        """The key of the page of this number in its text, which must be full."""
        size = self.page_size
        assert len(self.row.ids) >= (number + 1) * size
        while len(self._keys) <= number + 1:
            start = (len(self._keys) - 1) * size
            self._keys.append(page_key(self._keys[-1], self.row.ids[start : start + size]))
        return self._keys[number + 1]

    def adopt(self, page: int) -> None:
        """The next page of its text is there already. Counts as cached what it has never computed itself."""
        row = self.row
        self.pages.append(page)
        new = min(row.num_computed + self.page_size, row.num_prompt) - max(row.num_computed, self.reached)
        row.num_cached += max(0, new)
        row.num_computed += self.page_size
        self.num_published = len(self.pages)
        self.reached = max(self.reached, row.num_computed)

    def restart(self) -> list[int]:
        """Give up all that was computed; returns the pages that it held."""
        pages, self.pages = self.pages, []
        self.row.num_computed = self.num_published = 0
        return pages
