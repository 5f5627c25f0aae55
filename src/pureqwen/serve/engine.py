"""The engine: many requests at once, step by step, in a thread of its own.

    submit, abort -> [ inbox ] -> plan -> run -> commit -> listen(Update)       and again
    any thread                    scheduler  runner  ^       the engine's thread
                                                     +-- each row chooses its token

Only the engine's thread touches scheduler, runner and rows; other threads leave notes in the inbox. So a
request that is aborted is gone before the next step is planned. A step that crashes takes with it the
requests that were in it, and nothing else; a listener that raises loses its own request.
"""

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from pureqwen.cache import PagePool
from pureqwen.cache.static import FEW
from pureqwen.chat import Event
from pureqwen.config import EngineConfig
from pureqwen.generate import Result, Row
from pureqwen.generate.intake import Intake
from pureqwen.qwen import Qwen
from pureqwen.rewrite import deterministic
from pureqwen.serve.inbox import Inbox
from pureqwen.serve.request import Busy, Failed, Listen, Request, Statistics, Stopping, Ticket, Update
from pureqwen.serve.runner import Runner, advance, make_cache
from pureqwen.serve.scheduler import Chunk, Plan, Scheduler
from pureqwen.serve.stretch import Stretch

__all__ = ["Busy", "Engine", "Failed", "Statistics", "Stopping", "Ticket", "Update"]

STUCK = 300.0  # seconds: a step that takes longer is taken for one that never ends
CRASHES = 3  # steps in a row: what comes next is not believed to fare better
COUNTS = (  # fields of Statistics that are counted here
    "steps",
    "failures",
    "generated_tokens",
    "computed_tokens",
    "drafted_tokens",
    "accepted_tokens",
)
_log = logging.getLogger(__name__)


class Engine:
    """Answers many requests with one model.

    `start` gives it a thread that steps as long as there is something to do; without it `run` steps. With
    `config.deterministic` the model is rewritten, and stays so (rewrite/deterministic.py).
    """

    def __init__(self, qwen: Qwen, *, config: EngineConfig | None = None) -> None:
        self.qwen, self.config = qwen, config or EngineConfig()
        cache = make_cache(qwen, self.config)
        pool = PagePool(cache.num_pages, page_size=cache.page_size)
        self._scheduler = Scheduler(pool, config=self.config)
        model = deterministic(qwen.model) if self.config.deterministic else qwen.model
        self._runner = Runner(model, cache)
        self._stretch = Stretch(self.config.stretch, least=FEW, most=self.config.step_tokens)
        self._inbox = Inbox()
        self._live: dict[str, Request] = {}  # all that have not ended, but for the inbox
        self._thread: threading.Thread | None = None
        self._stepping = threading.Lock()  # one steps at a time
        self._began: float | None = None  # the step that is being made,
        self._last: float | None = None  # and the end of the last one, which took
        self._seconds = 0.0
        self._crashes = 0  # since the last step that did not
        self._counts = dict.fromkeys(COUNTS, 0)

    @property
    def intake(self) -> Intake:
        """What turns prompts into rows whose answers end where this cache is full, if not before."""
        pool = self._scheduler.pool
        return dataclasses.replace(self.qwen.intake, cache_tokens=pool.num_pages * pool.page_size)

    def start(self) -> None:
        """Start the thread that steps; nothing if it runs. Stopping where the engine was stopped."""
        if self._inbox.closed:
            raise Stopping("the engine was stopped: make another one")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="pureqwen-engine", daemon=True)
            self._thread.start()

    def stop(self, *, drain: float = 0.0) -> None:
        """No new requests; running ones have `drain` seconds to finish, then they end "interrupted"."""
        self._inbox.close(drain)
        if self._thread is not None:
            self._thread.join()
        else:
            with self._stepping:
                self._end_all()

    def submit(self, row: Row, *, listen: Listen, salt: str = "") -> Ticket:
        """Queue a row; its answer ends, by "length", where the cache is full. Thread-safe.

        listen: is called from the engine's thread, and must be quick. salt: only rows of the same one share
        what was computed. Busy when the queue is full, Stopping when there will be no more steps, ValueError
        when the cache has no room for the prompt and a token.
        """
        self.intake.fit(row)
        return self._submit(row, listen, salt=salt, room=self._places)

    def abort(self, ticket: Ticket) -> None:
        """End a request as "interrupted", before the next step; thread-safe, and nothing if it has ended."""
        self._inbox.give_up(ticket)

    @property
    def room(self) -> int:
        """How many more requests would be taken now. Thread-safe."""
        return self._places() - self._inbox.num_arrived

    def _places(self) -> int:
        """So many may arrive before the next step: those that it begins with do not wait."""
        waiting, running = len(self._scheduler.waiting), len(self._scheduler.running)
        free = 0 if waiting else self.config.max_batch - running
        return self.config.max_queue + free - waiting

    def statistics(self) -> Statistics:
        """How it stands. Thread-safe."""
        scheduler, pool = self._scheduler, self._scheduler.pool
        return Statistics(
            waiting=len(scheduler.waiting) + self._inbox.num_arrived,
            running=len(scheduler.running),
            pages_total=pool.num_pages,
            pages_used=pool.num_used,
            pages_cached=pool.num_cached,
            page_size=pool.page_size,
            prompt_tokens=scheduler.prompt_tokens,
            cached_tokens=scheduler.cached_tokens,
            preemptions=scheduler.num_preempted,
            last_step=self._last,
            step_seconds=self._seconds,
            **self._counts,
        )

    @property
    def alive(self) -> bool:
        """The thread lives and steps."""
        began = self._began
        alive = self._thread is not None and self._thread.is_alive()
        return alive and (began is None or time.monotonic() - began < STUCK)

    @property
    def healthy(self) -> bool:
        """And its steps come to an end: not CRASHES of them in a row have crashed, up to now."""
        return self.alive and self._crashes < CRASHES

    def run(self, rows: Sequence[Row]) -> list[Result]:
        """The answers to these rows, in their order; works without `start`, in the caller's thread.

        However many they are: only `submit` is ever Busy. Raises Failed where the step that computed one of
        them crashed. Ctrl-C returns what there is, as "interrupted".
        """
        ended, errors = threading.Semaphore(0), list[Exception]()

        def listen(update: Update) -> None:
            if update.error is not None:
                errors.append(update.error)
            if update.error is not None or update.row.finished:
                ended.release()

        for row in rows:
            self.intake.fit(row)
        tickets = [self._submit(row, listen) for row in rows]
        left = len(tickets)
        try:
            while left:
                self._await(ended)
                left -= 1
        except KeyboardInterrupt:
            for ticket in tickets:
                self.abort(ticket)
            for _ in range(left):
                self._await(ended)
        if errors:
            raise errors[0]
        return [row.result() for row in rows]

    def _await(self, ended: threading.Semaphore) -> None:
        """Until one more has ended."""
        if self._thread is not None:
            ended.acquire()
            return
        while not ended.acquire(blocking=False):
            with self._stepping:
                self._step()

    def _submit(
        self, row: Row, listen: Listen, *, salt: str = "", room: Callable[[], float] = lambda: math.inf
    ) -> Ticket:
        def make(number: int) -> Request:
            size = self._scheduler.pool.page_size
            return Request(row, number=number, page_size=size, salt=salt, listen=listen)

        row.start()
        return self._inbox.add(make, room=room)

    # ---- the engine's thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._inbox.wait(idle=not self._live):
                with self._stepping:
                    self._step()
        except BaseException as error:  # ours: no request is at fault, and none can go on
            _log.exception("the engine has died")
            self._inbox.close(0.0)
            self._end_all(failed(error))
        else:
            self._end_all()

    def _step(self) -> None:
        """One step, if there is something to do."""
        self._take_in()
        if not self._live:
            return
        self._began = began = time.monotonic()
        plan = self._scheduler.plan(limit=self._stretch.limit, short=self.config.step_tokens // 2)
        assert plan.chunks, "requests are there, and none of them gets on"
        try:
            computed = self._runner(plan)
        except Exception as error:
            self._crash(plan, error)
        else:
            updates = [(chunk.request, self._advance(chunk, logits)) for chunk, logits in computed]
            self._scheduler.commit(plan)
            self._count(plan, began)
            for request, update in updates:
                if update is not None:
                    self._tell(request, update)
        self._began = None

    def _take_in(self) -> None:
        """What other threads have left: new requests, and who is not wanted any more."""
        arrived, given_up = self._inbox.take()
        self._live |= {request.name: request for request in arrived}
        for request in arrived:
            self._scheduler.add(request)
        for ticket in given_up:
            if ticket.id in self._live:
                self._end(self._live[ticket.id])

    def _advance(self, chunk: Chunk, logits: Tensor) -> Update | None:
        """The row takes what was computed of it, and may have something to tell. An error here is its own."""
        row, events = chunk.request.row, list[Event]()
        before = len(row.ids)
        try:
            for _, scores in advance(chunk, logits):
                events += row.accept(scores)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in a grammar's matcher is none of Exception
            _log.exception("a request failed")
            return Update(events, row, failed(error))
        self._counts["generated_tokens"] += len(row.ids) - before
        self._counts["drafted_tokens"] += chunk.num_drafted
        self._counts["accepted_tokens"] += row.num_computed - chunk.end
        return Update(events, row) if len(row.ids) > before or row.finished else None

    def _count(self, plan: Plan, began: float) -> None:
        self._crashes = 0
        self._last = time.monotonic()
        self._seconds = self._last - began
        self._counts["steps"] += 1
        self._counts["computed_tokens"] += plan.num_tokens
        self._stretch.saw(
            writes=plan.num_writing > 0,
            num_read=plan.num_read,
            num_short=plan.num_short,
            seconds=self._seconds,
        )

    def _crash(self, plan: Plan, error: Exception) -> None:
        """The step raised: the requests in it fail."""
        _log.error("a step of %d requests crashed", len(plan.chunks), exc_info=error)
        self._counts["failures"] += 1
        self._crashes += 1
        for chunk in plan.chunks:
            self._end(chunk.request, failed(error))

    def _end(self, request: Request, error: Exception | None = None) -> None:
        """Whatever state it is in, it ends here; its listener is told."""
        events = request.row.reply.finish("interrupted")
        self._tell(request, Update(() if error else events, request.row, error))

    def _end_all(self, error: Exception | None = None) -> None:
        """Each by itself: where the books of one are wrong, the others are told all the same."""
        with survived():
            self._take_in()
        for request in list(self._live.values()):
            with survived():
                self._end(request, error)

    def _tell(self, request: Request, update: Update) -> None:
        """The books first, so that a listener that asks finds them in order; told it is in any case."""
        try:
            if update.error is not None or request.row.finished:
                self._forget(request)
        finally:
            try:
                request.listen(update)
            except Exception:
                _log.exception("a listener raised: its request ends")
                request.row.reply.finish("interrupted")
                self._forget(request)

    def _forget(self, request: Request) -> None:
        self._live.pop(request.name, None)
        self._scheduler.remove(request)


@contextmanager
def survived() -> Iterator[None]:
    """What goes wrong in here stands in the log, and no more."""
    try:
        yield
    except Exception:
        _log.exception("a request could not be ended in order")


def failed(error: BaseException) -> Failed:
    """What a request is told of an error that it could not do anything about."""
    found = Failed("the step that computed this request crashed")
    found.__cause__ = error
    return found
