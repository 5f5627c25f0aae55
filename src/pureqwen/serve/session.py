"""One HTTP request in the engine: its rows are submitted, their news collected, and all given up at once.

    engine's thread                                  event loop
    listen(Update) -> news, by row  --wakes once-->  take() -> [Piece]

News that are not taken are joined, text to text: a reader that is slow costs no more memory than its answer,
and the engine never waits for it.
"""

import asyncio
import dataclasses
import functools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pureqwen.chat import Content, Event, Finish, Reasoning, ToolCallDelta
from pureqwen.generate import Result, Row
from pureqwen.generate.result import Logprob
from pureqwen.serve.engine import Busy, Engine, Stopping, Ticket, Update
from pureqwen.serve.metrics import Metrics
from pureqwen.serve.protocol.answer import Piece
from pureqwen.serve.protocol.ask import Ask
from pureqwen.serve.protocol.refusal import Refusal, busy, crashed, stopping
from pureqwen.serve.uploads import RETRY


@dataclass
class News:
    """What a row has to tell since it was last asked."""

    events: list[Event] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    result: Result | None = None

    def add(self, event: Event) -> None:
        """Text is joined to the text before it."""
        last = self.events[-1] if self.events else None
        if isinstance(event, Content) and isinstance(last, Content):
            self.events[-1] = Content(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            self.events[-1] = Reasoning(last.text + event.text)
        else:
            self.events.append(event)


class Session:
    """The rows of one request, for the event loop that made it."""

    def __init__(
        self, engine: Engine, ask: Ask, rows: Sequence[Row], *, metrics: Metrics, began: float, salt: str = ""
    ) -> None:
        self.rows = rows
        self.pace = Pace(metrics, rows, began=began)
        self._engine, self._ask, self._salt = engine, ask, salt
        self._loop, self._awake = asyncio.get_running_loop(), asyncio.Event()
        self._lock = threading.Lock()  # guards what follows
        self._news: dict[int, News] = {}
        self._tickets: dict[int, Ticket] = {}
        self._results: dict[int, Result] = {}
        self._scored = [0] * len(rows)  # log-probabilities that were told
        self._error: Refusal | None = None
        self._closed = False

    def submit(self) -> None:
        """Queue all rows, or none; a matter of microseconds. Raises Refusal."""
        try:
            for index, row in enumerate(self.rows):
                listen = functools.partial(self._listen, index)
                ticket = self._engine.submit(row, listen=listen, salt=self._salt)
                with self._lock:
                    self._tickets[index] = ticket
        except ValueError as error:
            self.abort()
            raise refused(error) from None

    def abort(self) -> None:
        """Nobody waits any more: free what the rows hold."""
        with self._lock:
            self._closed = True
            tickets = list(self._tickets.values())
        for ticket in tickets:
            self._engine.abort(ticket)

    async def take(self, *, timeout: float) -> list[Piece] | None:
        """What is new, once there is; None when the time is over. Raises Refusal where a row failed."""
        try:
            async with asyncio.timeout(timeout):
                await self._awake.wait()
        except TimeoutError:
            return None
        with self._lock:
            self._awake.clear()
            news, self._news = self._news, {}
            error = self._error
        if error is not None:
            raise error
        return [self._piece(index, news[index]) for index in sorted(news)]

    @property
    def done(self) -> bool:
        """Whether every row has told its result."""
        return len(self._results) == len(self.rows) and not self._news

    @property
    def results(self) -> list[Result]:
        return [self._results[index] for index in range(len(self.rows))]

    def summary(self, *, text: bool) -> dict[str, Any]:
        """What the log says of the request; with `text` also what was asked and answered."""
        results = self.results if self.done else []
        told: dict[str, Any] = {
            "rows": len(self.rows),
            "stream": self._ask.stream,
            "prompt_tokens": sum(row.num_prompt for row in self.rows),
            "cached_tokens": sum(row.num_cached for row in self.rows),
            "completion_tokens": sum(len(row.ids) - row.num_prompt for row in self.rows),
            "first_token": self.pace.first,
            "finish": ",".join(result.finish_reason for result in results) or None,
        }
        if text:
            asked = self._ask.prompts or self._ask.messages
            told |= {"asked": repr(asked), "answered": repr([result.text for result in results])}
        return told

    def _piece(self, index: int, news: News) -> Piece:
        if news.result is not None and not self.rows[index].finished:  # it had the one call that it may have
            self._engine.abort(self._tickets[index])
        return Piece(
            index=index,
            events=news.events,
            logprobs=news.logprobs,
            prompt_logprobs=self.rows[index].prompt_logprobs,
            result=news.result,
        )

    def _listen(self, index: int, update: Update) -> None:
        """In the engine's thread."""
        with self._lock:
            if self._closed or index in self._results:
                return
            self.pace.count(index)
            news = self._news.setdefault(index, News())
            if update.error is not None:
                self._error = crashed()
            else:
                self._add(index, news, update)
            self._loop.call_soon_threadsafe(self._awake.set)

    def _add(self, index: int, news: News, update: Update) -> None:
        row = update.row
        news.logprobs += row.logprobs[self._scored[index] :]
        self._scored[index] = len(row.logprobs)
        for event in update.events:
            news.add(event)
            if isinstance(event, ToolCallDelta) and not self._ask.parallel:
                news.add(Finish("tool_calls"))
                news.result = self._results[index] = only_call(row.result())
                return
        if row.finished:
            news.result = self._results[index] = row.result()
            self._error = self._error or interruption(news.result)


class Pace:
    """When the tokens of a request came: what the metrics and the log say of it."""

    def __init__(self, metrics: Metrics, rows: Sequence[Row], *, began: float) -> None:
        self.first: float | None = None  # seconds from the request's arrival to its first token
        self._metrics, self._rows = metrics, rows
        self._began = began
        self._seen, self._last = [0] * len(rows), [0.0] * len(rows)

    def count(self, index: int) -> None:
        """A row may have new tokens."""
        row, now = self._rows[index], time.monotonic()
        new = len(row.ids) - row.num_prompt - self._seen[index]
        if new <= 0:
            return
        if self._seen[index] == 0:
            self.first = self.first or now - self._began
            self._metrics.first_token.observe(now - self._began)
        else:
            self._metrics.between_tokens.observe((now - self._last[index]) / new)
        self._seen[index] += new
        self._last[index] = now


def refused(error: ValueError) -> Refusal:
    """Why the engine does not take a request."""
    if isinstance(error, Stopping):
        return stopping()
    if isinstance(error, Busy):
        return busy(str(error), seconds=RETRY)
    return Refusal(str(error), code="context_length_exceeded")


def interruption(result: Result) -> Refusal | None:
    """What is the matter with an answer that did not end by itself."""
    if result.error is not None:
        return Refusal(result.error, status=500, code="constraint_failed")
    return stopping() if result.finish_reason == "interrupted" else None


def only_call(result: Result) -> Result:
    """An answer that ends with its first tool call."""
    return dataclasses.replace(
        result, finish_reason="tool_calls", tool_calls=result.tool_calls[:1], error=None
    )
