"""The scheduler without a model: no page is lost, nobody starves, budgets are kept, and a page holds what its
reader takes it to hold.

A machine adds requests, steps, aborts and crashes at random. In the place of a model it writes into each slot
which text stands before it, and reads that again wherever a request relies on it.
"""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pureqwen.cache.pages import PagePool
from pureqwen.config import EngineConfig
from pureqwen.serve.request import Request
from pureqwen.serve.scheduler import SCORED, Chunk, Plan, Scheduler


class Scores:
    """Of a prompt, which several may share: how many places have none."""

    def __init__(self, num_prompt: int) -> None:
        self.missing = num_prompt - 1


class Text:
    """What the scheduler knows of a row: its tokens, of which the next one follows from all before it."""

    def __init__(self, prompt: list[int], *, max_tokens: int = 4, scored: Any = False, luck: int = 0) -> None:
        """scored: True, or scores that are another's too."""
        self.ids, self.num_prompt, self.max_tokens = list(prompt), len(prompt), max_tokens
        self.num_computed = self.num_cached = 0
        self.scores, self.luck = Scores(len(prompt)) if scored is True else scored or None, luck

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.scores is not None and self.scores.missing > 0

    @property
    def finished(self) -> bool:
        return len(self.ids) - self.num_prompt >= self.max_tokens

    def draft(self, limit: int) -> list[int]:
        """Right as often as luck has it: of 4 drafted tokens the first `luck`."""
        ids, right = list(self.ids), self.luck
        for n in range(min(limit, self.max_tokens - (len(ids) - self.num_prompt) - 1)):
            ids.append(follows(ids) if n < right else 9)
        return ids[len(self.ids) :]


def follows(ids: list[int]) -> int:
    return hash(tuple(ids)) % 3


def request(number: int, prompt: list[int], *, page_size: int = 2, salt: str = "", **how: Any) -> Request:
    row: Any = Text(prompt, **how)
    return Request(row, number=number, page_size=page_size, salt=salt)


class Memory:
    """Stands for the cache: what each slot holds. `compute` is a step of the engine."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler, self.slots = scheduler, dict[tuple[int, int], Any]()

    def slot(self, request: Request, position: int) -> tuple[int, int]:
        return request.pages[position // request.page_size], position % request.page_size

    def compute(self, plan: Plan) -> None:
        for chunk in plan.chunks:  # all write, then all read, as in the layers of a model
            text = [*chunk.request.row.ids[: chunk.start], *chunk.tokens]
            for position in range(chunk.start, len(text)):
                self.slots[self.slot(chunk.request, position)] = text[: position + 1]
        for chunk in plan.chunks:
            self.read(chunk)
        self.scheduler.commit(plan)

    def read(self, chunk: Chunk) -> None:
        request, row = chunk.request, chunk.request.row
        text = [*row.ids[: chunk.start], *chunk.tokens]
        for position in range(len(text)):
            assert self.slots[self.slot(request, position)] == text[: position + 1]
        row.num_computed, wants = chunk.end, row.wants_prompt_logprobs
        if wants:
            assert row.scores.missing <= row.num_prompt - 1 - chunk.start, "a place was left out"
            row.scores.missing = min(row.scores.missing, max(0, row.num_prompt - 1 - chunk.end))
        if chunk.end < len(row.ids):
            assert chunk.keep == (len(chunk.tokens) if wants else 0)
            return
        assert chunk.keep >= 1 + chunk.num_drafted
        for token in [*text[chunk.end :], None]:
            row.ids.append(follows(row.ids))
            if row.finished or row.ids[-1] != token:
                return
            row.num_computed += 1


BEGINNINGS = ([0] * 12, [1, 2, 0, 1, 2, 0, 1, 2, 0], [0, 0, 0, 1, 1, 1, 2], [])


class Serving(RuleBasedStateMachine):
    """`live` holds all that have been added and have not ended, in the order of their coming."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        def one(low: int, high: int) -> int:
            return data.draw(st.integers(low, high))

        page_size, num_pages = one(1, 4), one(3, 9)
        config = EngineConfig(
            max_batch=one(1, 5),
            step_tokens=one(1, 24),
            page_size=page_size,
            prefix_caching=data.draw(st.booleans()),
            speculative=one(0, 4),
        )
        self.scheduler = Scheduler(PagePool(num_pages, page_size=page_size), config=config)
        self.memory, self.live, self.number = Memory(self.scheduler), list[Request](), 0
        self.salted: dict[int, str] = {}

    @rule(data=st.data(), times=st.integers(1, 3))
    def add(self, data: st.DataObject, times: int) -> None:
        for _ in range(times):
            self.add_one(data)

    def add_one(self, data: st.DataObject) -> None:
        room = self.scheduler.pool.num_pages * self.scheduler.pool.page_size
        prompt = [
            *data.draw(st.sampled_from(BEGINNINGS)),
            *data.draw(st.lists(st.integers(0, 2), max_size=9)),
        ]
        prompt = prompt[: room - 1] or [1]
        salt = data.draw(st.sampled_from(["", "", "", "other"]))
        scored: Any = data.draw(st.sampled_from([False, False, True, "shared"]))
        if scored == "shared":
            others = [r for r in self.live if r.row.scores is not None]
            if scored := bool(others):
                other = data.draw(st.sampled_from(others))
                prompt, salt, scored = other.row.ids[: other.row.num_prompt], other.salt, other.row.scores
        self.number += 1
        new = request(
            self.number,
            prompt,
            page_size=self.scheduler.pool.page_size,
            salt=salt,
            max_tokens=data.draw(st.integers(1, min(8, room + 1 - len(prompt)))),
            scored=scored,
            luck=data.draw(st.integers(0, 4)),
        )
        self.live.append(new)
        self.scheduler.add(new)

    @precondition(lambda self: self.live)
    @rule(limit=st.sampled_from([None, None, 1, 3]), times=st.integers(1, 4))
    def step(self, limit: int | None, times: int) -> None:
        for _ in range(times):
            if self.live:
                self.memory.compute(self.plan(limit))
                self.live = [r for r in self.live if not r.row.finished]

    @precondition(lambda self: self.live)
    @rule()
    def crash(self) -> None:
        """The step raised: all that were in it are gone."""
        for chunk in self.plan(None).chunks:
            self.scheduler.remove(chunk.request)
            self.live.remove(chunk.request)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.live))
        self.scheduler.remove(gone)
        self.live.remove(gone)
        assert not gone.pages

    def plan(self, limit: int | None) -> Plan:
        oldest = min(self.live, key=lambda r: r.number)
        before = oldest.row.num_computed
        writing = [r for r in self.scheduler.running if r.remaining == 1]
        plan = self.scheduler.plan(limit=limit)
        config, chunks = self.scheduler.config, plan.chunks
        assert chunks, "requests are there, and none of them gets on"
        assert plan.num_tokens <= config.step_tokens
        assert len(self.scheduler.running) <= config.max_batch
        if limit is not None and any(chunk.request in writing for chunk in chunks):
            assert sum(len(c.tokens) for c in chunks if c.request not in writing) <= limit
        assert all(chunk.num_drafted <= config.speculative for chunk in chunks)
        scored = [chunk for chunk in chunks if chunk.request.row.wants_prompt_logprobs]
        assert all(len(chunk.tokens) <= SCORED for chunk in scored)
        assert len({id(c.request.row.scores) for c in scored}) == len(scored), "a prompt is scored twice"
        assert oldest.row.num_computed >= before, "the first that came has lost what it had"
        return plan

    @invariant()
    def books_agree(self) -> None:
        scheduler = self.scheduler
        running, waiting = scheduler.running, scheduler.waiting
        scheduler.pool.check([r.pages for r in running])
        assert not any(r.pages or r.num_published for r in waiting)
        if scheduler.config.prefix_caching:
            assert all(r.num_published == r.next_page for r in running), "others can not find what is there"
        assert sorted([*running, *waiting], key=lambda r: r.number) == self.live
        for queue in (running, waiting):
            assert [r.number for r in queue] == sorted(r.number for r in queue)
        for r in self.live:
            assert 0 <= r.row.num_cached <= r.row.num_prompt
            assert not (r.row.num_cached and r.row.wants_prompt_logprobs)
        salted = {salt: {p for r in running if r.salt == salt for p in r.pages} for salt in ("", "other")}
        assert not salted[""] & salted["other"], "two users hold one page"

    def teardown(self) -> None:
        """Whatever has happened, all that are left come to their ends, the first of them the soonest."""
        if not self.number:
            return
        texts = [r.row.num_prompt + r.row.max_tokens for r in self.live]
        for _ in range(2 * sum(texts) + 10):
            if not self.live:
                break
            self.step(None, 1)
            self.books_agree()
        assert not self.live
        assert self.scheduler.pool.num_used == 0


Serving.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestServing = Serving.TestCase


def scheduler(num_pages: int = 32, **fields: Any) -> Scheduler:
    config = EngineConfig(**{"page_size": 2, "step_tokens": 16, **fields})
    return Scheduler(PagePool(num_pages, page_size=config.page_size), config=config)


def run(scheduler: Scheduler, requests: list[Request], memory: Memory | None = None) -> list[Plan]:
    """All their steps."""
    memory, plans = memory or Memory(scheduler), []
    for one in requests:
        scheduler.add(one)
    while scheduler.running or scheduler.waiting:
        plans.append(scheduler.plan())
        memory.compute(plans[-1])
    return plans


def shares(plan: Plan) -> list[tuple[int, int]]:
    """Whose, and how many tokens."""
    return [(chunk.request.number, len(chunk.tokens)) for chunk in plan.chunks]


def test_answers_go_first_and_prompts_share_what_is_left_in_the_order_of_their_coming() -> None:
    plans = run(
        scheduler(),
        [request(1, [1, 2]), request(2, [2] * 20), request(3, [0] * 6, max_tokens=1), request(4, [1])],
    )
    assert [shares(plan) for plan in plans[:2]] == [[(1, 2), (2, 14)], [(1, 1), (2, 6), (3, 6), (4, 1)]]


def test_a_prompt_beside_answers_is_cut_to_the_limit_and_alone_is_not() -> None:
    one = scheduler()
    memory = Memory(one)
    one.add(request(1, [1, 2]))
    memory.compute(one.plan(limit=3))
    one.add(request(2, [0] * 12))
    assert shares(one.plan(limit=3)) == [(1, 1), (2, 3)]
    one.remove(one.running[0])
    assert shares(one.plan(limit=3)) == [(2, 12)]


def test_a_short_prompt_goes_beside_a_long_one_and_what_is_found_does_not_make_one_long() -> None:
    one = scheduler(page_size=4)
    memory = Memory(one)
    one.add(request(1, [1, 2], page_size=4, max_tokens=9))
    memory.compute(one.plan(limit=3, short=4))
    one.add(request(2, [0] * 12, page_size=4))
    one.add(request(3, [2] * 4, page_size=4))
    plan = one.plan(limit=3, short=4)
    assert shares(plan) == [(1, 1), (2, 3), (3, 4)] and plan.num_short == 4
    memory.compute(plan)
    one.add(request(4, [*[2] * 4, 1, 0], page_size=4))
    plan = one.plan(limit=3, short=4)
    assert shares(plan)[-1] == (4, 2) and plan.num_short == 2


def test_a_beginning_that_somebody_computes_is_waited_for_and_computed_once() -> None:
    """Several answers to one prompt: the others take its pages and compute only what is behind them."""
    plans = run(scheduler(), [request(n, [1, 2, 0, 1, 2, 0, 1]) for n in (1, 2, 3)])
    assert shares(plans[0]) == [(1, 7)]
    assert shares(plans[1]) == [(1, 1), (2, 1), (3, 1)]


def test_a_prompt_in_pieces_is_followed_by_the_one_that_waits_for_its_pages() -> None:
    one = scheduler(step_tokens=7, page_size=4)
    plans = run(one, [request(n, [1] * 12, page_size=4, max_tokens=1) for n in (1, 2)])
    assert [shares(plan) for plan in plans] == [[(1, 7)], [(1, 5)], [(2, 4)]]
    assert one.cached_tokens == 8 and one.prompt_tokens == 24


def test_without_prefix_caching_everybody_computes_everything() -> None:
    plans = run(scheduler(prefix_caching=False), [request(n, [1] * 7, max_tokens=1) for n in (1, 2)])
    assert [shares(plan) for plan in plans] == [[(1, 7), (2, 7)]]


def test_another_salt_shares_nothing() -> None:
    one = scheduler()
    memory = Memory(one)
    run(one, [request(1, [1] * 7), request(2, [1] * 7, salt="other")], memory)
    assert one.cached_tokens == 0
    run(one, [request(3, [1] * 7, salt="other")], memory)
    assert one.cached_tokens == 6


def test_scored_prompts_are_computed_whole_and_in_small_pieces() -> None:
    one = scheduler(64, step_tokens=200)
    plans = run(one, [request(1, [1] * 101), request(2, [1] * 101, scored=True, max_tokens=1)])
    own = [c for plan in plans for c in plan.chunks if c.request.number == 2]
    assert [(len(c.tokens), c.keep) for c in own] == [(SCORED, SCORED), (101 - SCORED, 101 - SCORED)]


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_a_prompt_that_several_answer_is_scored_once(prefix_caching: bool) -> None:
    one, scores = scheduler(200, step_tokens=400, prefix_caching=prefix_caching), Scores(101)
    plans = run(one, [request(n, [1] * 101, scored=scores, max_tokens=2) for n in (1, 2, 3)])
    told = [(c.request.number, len(c.tokens), c.keep) for plan in plans for c in plan.chunks if c.keep > 1]
    assert told == [(1, SCORED, SCORED), (1, 101 - SCORED, 101 - SCORED)]
    assert one.cached_tokens == (200 if prefix_caching else 0)


def test_who_waits_for_the_scores_of_a_prompt_makes_them_where_the_first_is_gone() -> None:
    one, scores = scheduler(200, step_tokens=400), Scores(201)
    requests = [request(n, [1] * 201, scored=scores, max_tokens=2) for n in (1, 2, 3)]
    memory = Memory(one)
    for each in requests:
        one.add(each)
    memory.compute(one.plan())
    assert shares(one.plan()) == [(1, SCORED)]
    one.remove(requests[0])
    assert shares(one.plan()) == [(2, SCORED)]
    run(one, [], memory)
    assert scores.missing == 0 and all(r.row.finished for r in requests[1:])


def test_when_pages_run_out_the_last_that_came_is_computed_again_later() -> None:
    """And what it had computed before does not count as found in the cache."""
    one = scheduler(num_pages=8, prefix_caching=False)
    first, last = (request(n, [n] * 4, max_tokens=10) for n in (1, 2))
    plans = run(one, [first, last])
    assert one.num_preempted > 0
    ends = [
        max(n for n, plan in enumerate(plans) if r in [c.request for c in plan.chunks]) for r in (first, last)
    ]
    assert ends[0] < ends[1]
    assert last.row.num_cached == 0


def test_a_request_that_was_preempted_takes_what_it_finds_and_that_is_no_hit() -> None:
    one = scheduler(num_pages=8)
    first, last = (request(n, [n] * 4, max_tokens=10) for n in (1, 2))
    run(one, [first, last])
    assert one.num_preempted > 0
    assert last.row.num_cached == one.cached_tokens == 0


def test_nothing_is_begun_that_would_push_out_another() -> None:
    """The second would fit now, but not beside what the first still needs for its prompt."""
    one = scheduler(num_pages=60, step_tokens=200)
    one.add(request(1, [1] * 101, scored=True))
    one.add(request(2, [2] * 20, max_tokens=1))
    assert shares(one.plan()) == [(1, SCORED)] and len(one.waiting) == 1


def test_pages_that_are_found_and_held_by_nobody_are_not_counted_as_room_too() -> None:
    one = scheduler(num_pages=8)
    run(one, [request(1, [1] * 8, max_tokens=1)])
    one.add(request(2, [2] * 10))
    one.plan()
    assert one.pool.num_available == 3
    one.add(request(3, [1] * 8, max_tokens=1))
    one.plan()
    assert len(one.waiting) == 1


def test_drafts_are_made_while_a_step_is_small() -> None:
    alone = run(scheduler(speculative=4), [request(1, [1, 2], max_tokens=8, luck=4)])
    assert [chunk.num_drafted for plan in alone for chunk in plan.chunks] == [0, 4, 1]
    crowd = [request(n, [n, n], max_tokens=4, luck=4) for n in range(1, 17)]
    plans = run(scheduler(64, speculative=4, step_tokens=64), crowd)
    assert not any(chunk.num_drafted for plan in plans for chunk in plan.chunks)


def test_an_aborted_request_that_waits_or_is_unknown_leaves_no_trace() -> None:
    one = scheduler()
    gone = request(1, [1, 2])
    one.add(gone)
    one.remove(gone)
    one.remove(gone)
    assert not one.waiting and not one.running
    one.pool.check()


def test_the_scheduler_knows_no_torch() -> None:
    code = "import sys, pureqwen.serve.scheduler, pureqwen.serve.inbox, pureqwen.serve.stretch"
    subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True, timeout=60
    )


@pytest.mark.long
def test_serving_at_length() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Serving, settings=settings(max_examples=2000, stateful_step_count=60, deadline=None)
    )
