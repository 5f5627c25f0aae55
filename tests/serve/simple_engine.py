"""An engine for the tests of the server that can misbehave: one request after the other, token by token.

It answers as the real one does, since both choose with Row.accept; what it does not do is being quick.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pureqwen import EngineConfig, Qwen, Result
from pureqwen.cache import StaticCache
from pureqwen.generate import Cached, Row
from pureqwen.serve.engine import Busy, Failed, Statistics, Stopping, Ticket, Update


class SimpleEngine:
    """The interface of Engine. `fail`: every step crashes. `full`: the queue is. `pause`: seconds before each
    token. `aborted`: the rows that were given up, in their order.
    """

    def __init__(self, qwen: Qwen, *, config: EngineConfig | None = None) -> None:
        self.qwen, self.config, self.intake = qwen, config or EngineConfig(), qwen.intake
        self.fail = self.full = False
        self.pause = 0.0
        self.alive = True
        self.aborted: list[Row] = []
        self.salts: list[str] = []
        self.submitted = 0
        self._queue: queue.Queue[Any] = queue.Queue()
        self._given_up: set[str] = set()
        self._stopping = False
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, daemon=True)
            self._thread.start()

    def stop(self, *, drain: float = 0.0) -> None:
        if self._thread is None:
            return
        self._deadline = min(self._deadline, time.monotonic() + drain)
        self._stopping = True
        self._queue.put(None)
        self._thread.join()
        self._thread = None

    def submit(self, row: Row, *, listen: Callable[[Update], None], salt: str = "") -> Ticket:
        if self._stopping:
            raise Stopping("the engine stops")
        if self.full:
            raise Busy("the queue is full")
        self.submitted += 1
        self.salts.append(salt)
        ticket = Ticket(str(self.submitted), row)
        self._queue.put((ticket, listen))
        return ticket

    def abort(self, ticket: Ticket) -> None:
        if not ticket.row.finished and ticket.id not in self._given_up:
            self._given_up.add(ticket.id)
            self.aborted.append(ticket.row)

    def statistics(self) -> Statistics:
        return Statistics(waiting=self._queue.qsize())

    @property
    def healthy(self) -> bool:
        return self.alive

    def run(self, rows: Sequence[Row]) -> list[Result]:
        raise NotImplementedError

    def _loop(self) -> None:
        while (item := self._queue.get()) is not None:
            ticket, listen = item
            try:
                self._answer(ticket, listen)
            except Exception as error:
                failed = Failed("the step crashed")
                failed.__cause__ = error
                listen(Update((), ticket.row, failed))

    def _answer(self, ticket: Ticket, listen: Callable[[Update], None]) -> None:
        row, qwen = ticket.row, self.qwen
        cache = StaticCache(qwen.config, batch=1, limit=qwen.context, dtype=qwen.dtype, device=qwen.device)
        compute = Cached(qwen.model, cache, [row])
        while not row.finished:
            if self.fail:
                raise RuntimeError("a secret of the machine")
            time.sleep(self.pause)
            if ticket.id in self._given_up or time.monotonic() > self._deadline:
                listen(Update(row.reply.finish("interrupted"), row))
                return
            for _, logits in compute([row]):
                listen(Update(row.accept(logits), row))
