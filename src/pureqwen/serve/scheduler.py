"""The scheduler: which tokens of which requests the next step computes, and in which pages.

    step_tokens   [ a b c d | e e e e e e e e | f f f ]     a to d write: a token each (and drafts, if any)
                    answers    prompts, in order            e, f read: a piece of their prompts each

Answers go first, each by its next token; what is left of the budget goes to prompts, first come, first
served; a step computes both in one forward ("chunked prefill": Agrawal et al. 2023, "SARATHI"; requests
come and go at every step: Yu et al. 2022, "Orca"). So nobody starves, and a long prompt stalls nobody.

A prompt whose next page is known to the pool takes it; one whose next page is being computed by an earlier
request waits for it, and so does one whose log-probabilities are being made by an earlier one. When pages run
out, the request that came last gives up its own and is computed again later, where it was in the queue; the
first one always goes on, so all end.

It decides and keeps the books; it imports no torch, runs no model and chooses no token.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from pureqwen.cache.pages import PagePool
from pureqwen.config import EngineConfig
from pureqwen.serve.request import Request

SCORED = 64  # most tokens of a prompt in a step that each need logits: V numbers a token
DRAFTED = 16  # tokens in a step up to which one more costs little


@dataclass(frozen=True, eq=False)
class Chunk:
    """The next tokens of a request: `tokens` behind the first `start` of its text, the drafted ones last.

    The logits of the last `keep` of them are wanted: 0 where they do not reach the end of the text.
    """

    request: Request
    start: int
    tokens: Sequence[int]
    num_drafted: int
    keep: int

    @property
    def end(self) -> int:
        """Where it ends in the request's text, without what is drafted."""
        return self.start + len(self.tokens) - self.num_drafted

    @property
    def writes(self) -> bool:
        """Whether it is the next token of an answer, not a piece of a prompt."""
        return self.start >= self.request.row.num_prompt and len(self.tokens) - self.num_drafted == 1


@dataclass(frozen=True, eq=False)
class Plan:
    """What one step computes. num_short: tokens in it of prompts that no limit held for."""

    chunks: Sequence[Chunk]
    num_short: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)

    @property
    def num_writing(self) -> int:
        """Answers among the chunks; the others are of prompts."""
        return sum(chunk.writes for chunk in self.chunks)

    @property
    def num_read(self) -> int:
        """Tokens of prompts."""
        return sum(len(chunk.tokens) for chunk in self.chunks if not chunk.writes)


class Scheduler:
    """The requests that wait and those that run, both in the order of their coming."""

    def __init__(self, pool: PagePool, *, config: EngineConfig) -> None:
        self.pool, self.config = pool, config
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.prompt_tokens = self.cached_tokens = self.num_preempted = 0
        self._chunks: dict[Request, Chunk] = {}  # of the plan that is being made,
        self._claimed: set[bytes] = set()  # the keys of pages that somebody in it is to compute,
        self._scoring: dict[object, Request] = {}  # who in it scores a prompt that several share,
        self._left = 0  # its tokens that are not given away,
        self._limit = 0  # those of them that long prompts may have,
        self._short = self._num_short = 0  # what is short, and what such prompts were given

    def add(self, request: Request) -> None:
        """The request waits for its turn."""
        insort(self.waiting, request, key=_number)

    def remove(self, request: Request) -> None:
        """The request has ended, for whatever reason; its pages are free."""
        for queue in (self.waiting, self.running):
            if request in queue:
                queue.remove(request)
        pages, request.pages = request.pages, []
        self.pool.release(pages)

    def plan(self, *, limit: int | None = None, short: int = 0) -> Plan:
        """The next step. limit: most tokens of prompts beside answers, so that these need not wait long; it
        does not hold for short ones, of at most `short` tokens: they stall nobody for long, and need not wait
        behind a long one.
        """
        self._chunks, self._left = {}, self.config.step_tokens
        self._short, self._num_short, self._scoring = short, 0, {}
        self._claimed = {r.key(r.next_page) for r in self.running if self._amid(r)}
        writing = [request for request in self.running if request.remaining == 1]
        for place, request in enumerate(writing, 1):
            if self._left and request in self.running:
                self._write(request, others=len(writing) - place)
        self._limit = self._left if limit is None or not self._chunks else limit
        for request in list(self.running):
            if request in self.running and request.remaining > 1:
                self._read(request)
        self._admit()
        return Plan(list(self._chunks.values()), self._num_short)

    def commit(self, plan: Plan) -> None:
        """The plan's tokens are computed and counted in `num_computed`: full pages become known."""
        for request in (chunk.request for chunk in plan.chunks):
            request.reached = max(request.reached, request.row.num_computed)
            if self.config.prefix_caching:
                self._publish(request)
            if request.row.finished:
                self.remove(request)

    def _publish(self, request: Request) -> None:
        for number in range(request.num_published, request.next_page):
            self.pool.publish(request.pages[number], request.key(number))
        request.num_published = max(request.num_published, request.next_page)

    def _shares(self, request: Request) -> bool:
        """Whether what others computed serves this request."""
        return self.config.prefix_caching and not request.row.wants_prompt_logprobs

    def _amid(self, request: Request) -> bool:
        """Whether it is in the middle of a page that others may be waiting for."""
        inside = not request.between_pages and request.next_page < request.num_shareable
        return inside and self.config.prefix_caching

    def _write(self, request: Request, *, others: int) -> None:
        """The next token of an answer, and a draft of those behind it where that costs no one anything."""
        if not self._room(request, 1):
            return
        held = len(request.pages) + self.pool.num_available
        spare = min(self._left - 1 - others, DRAFTED - len(self._chunks) - 1 - others)
        spare = min(self.config.speculative, spare, held * self.pool.page_size - len(request.row.ids))
        draft = request.row.draft(spare) if spare > 0 else []
        self._grow(request, 1 + len(draft))
        self._schedule(request, 1, draft)

    def _read(self, request: Request) -> None:
        """A piece of a prompt: as much as there is budget and room for."""
        if not self._left or self._waits_for_scores(request):
            return
        self._adopt(request)
        key = None
        if self._shares(request) and request.between_pages and request.next_page < request.num_shareable:
            key = request.key(request.next_page)
            if key in self._claimed:
                return
        short = len(request.row.ids) - request.row.num_cached <= self._short
        budget = self._left if short else min(self._left, self._limit)
        most = SCORED if request.row.wants_prompt_logprobs else budget
        count = self._room(request, min(request.remaining, budget, most)) if budget else 0
        if count:
            if key is not None:
                self._claimed.add(key)
            self._schedule(request, count, [])
            if short:
                self._num_short += count
            else:
                self._limit -= count

    def _waits_for_scores(self, request: Request) -> bool:
        """Whether an earlier request is scoring the prompt that it has in common with this one, which waits
        till that is done, and takes over should it end before.
        """
        row = request.row
        return row.wants_prompt_logprobs and self._scoring.setdefault(row.scores, request) is not request

    def _adopt(self, request: Request) -> None:
        """Take over the pages that are known already, as many as follow one another."""
        while self._shares(request) and request.between_pages and request.next_page < request.num_shareable:
            page = self.pool.share(request.key(request.next_page))
            if page is None:
                return
            before = request.row.num_cached
            request.adopt(page)
            self.cached_tokens += request.row.num_cached - before

    def _admit(self) -> None:
        """Requests that wait begin, as long as there is budget, and room for the whole text of each."""
        while self.waiting and self._left and len(self.running) < self.config.max_batch:
            request = self.waiting[0]
            if not self._fits(request):
                return
            self.running.append(self.waiting.pop(0))
            self.running.sort(key=_number)
            if not request.reached:
                self.prompt_tokens += request.row.num_prompt
            self._read(request)

    def _fits(self, request: Request) -> bool:
        """Whether its text has room beside what those that run are still to compute of theirs."""
        pages_for, known, idle = self.pool.pages_for, 0, 0
        if self._shares(request):
            known, idle = self.pool.find(map(request.key, range(request.num_shareable)))
        owed = sum(max(0, pages_for(len(r.row.ids)) - len(r.pages)) for r in self.running)
        return pages_for(len(request.row.ids)) - known + owed <= self.pool.num_available - idle

    def _room(self, request: Request, count: int) -> int:
        """Pages for its next tokens: how many of `count` have one, 1 if whoever came later must yield."""
        while True:
            held = (len(request.pages) + self.pool.num_available) * self.pool.page_size
            count = min(count, held - request.row.num_computed)
            if count:
                self._grow(request, count)
                return count
            last = self.running[-1]
            if last is request:
                return 0
            self._preempt(last)
            count = 1

    def _grow(self, request: Request, count: int) -> None:
        """Pages for `count` tokens behind those that are computed."""
        missing = self.pool.pages_for(request.row.num_computed + count) - len(request.pages)
        request.pages += self.pool.allocate(max(0, missing))

    def _preempt(self, request: Request) -> None:
        """It gives up its pages, and its part in this plan, and waits where it stood in the queue."""
        self._chunks.pop(request, None)
        self.running.remove(request)
        self.pool.release(request.restart())
        self.num_preempted += 1
        self.add(request)

    def _schedule(self, request: Request, count: int, draft: Sequence[int]) -> None:
        row, start = request.row, request.row.num_computed
        tokens = [*row.ids[start : start + count], *draft]
        keep = 1 + len(draft) if start + count == len(row.ids) else 0
        if row.wants_prompt_logprobs and start < row.num_prompt:
            keep = len(tokens)
        self._chunks[request] = Chunk(request, start, tokens, len(draft), keep)
        self._left -= len(tokens)


def _number(request: Request) -> int:
    return request.number
