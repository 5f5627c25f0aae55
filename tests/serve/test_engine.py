"""The engine: what its callers see, who is hurt by what goes wrong, and that nothing is left behind."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peers import build, tiny

from pureqwen import Engine, EngineConfig, Qwen, Result, SamplingParams
from pureqwen.cache import bytes_per_token
from pureqwen.chat import Finish
from pureqwen.generate import Row
from pureqwen.serve.engine import Busy, Failed, Stopping, Ticket, Update

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPTS = ([3, 17, 250, 9, 101], [200], [5, 5, 88, 31, 7, 64, 190, 2, 44, 121, 13] * 3)


@pytest.fixture(scope="module")
def qwen() -> Qwen:
    return Qwen(build(tiny(num_hidden_layers=2)), name="tiny")


@pytest.fixture
def engine(qwen: Qwen) -> Iterator[Engine]:
    """With its thread; at the end no page may be held."""
    one = Engine(qwen)
    one.start()
    yield one
    one.stop()
    nothing_left(one)


def nothing_left(engine: Engine) -> None:
    engine._scheduler.pool.check()
    now = engine.statistics()
    assert now.waiting == now.running == now.pages_used == 0 and not engine._live


def row(qwen: Qwen, prompt: list[int], **fields: Any) -> Row:
    return qwen.intake.text(prompt, SamplingParams(**fields).over(GREEDY))


class Listener:
    """Keeps its updates, and knows when the last one has come."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.ended = threading.Event()

    def __call__(self, update: Update) -> None:
        assert not self.ended.is_set(), "an update behind the last one"
        self.updates.append(update)
        if update.error is not None or update.row.finished:
            self.ended.set()

    def wait(self) -> Update:
        assert self.ended.wait(20), "it never ended"
        return self.updates[-1]


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


class Slow:
    """Steps of an engine that stop until they are let go; `failing`: and then raise."""

    def __init__(self, engine: Engine) -> None:
        self.run, self.failing = engine._runner, False
        self.entered, self.let = threading.Semaphore(0), threading.Semaphore(0)
        engine._runner = self  # type: ignore[assignment]

    def __call__(self, plan: Any) -> Any:
        self.entered.release()
        assert self.let.acquire(timeout=20)
        if self.failing:
            raise RuntimeError("out of memory")
        return self.run(plan)


def same(results: list[Result], rows: list[Any]) -> None:
    assert [r.token_ids for r in results] == [r.token_ids for r in rows]


def test_run_gives_the_tokens_of_generate_with_and_without_a_thread(qwen: Qwen, engine: Engine) -> None:
    expected = qwen.generate([*PROMPTS], GREEDY)
    offline = Engine(qwen)
    assert not offline.healthy and engine.healthy
    for one in (offline, engine):
        same(one.run([row(qwen, prompt) for prompt in PROMPTS]), expected)
        assert one.run([]) == []
    nothing_left(offline)


def test_updates_add_up_to_the_answer_and_the_last_one_is_the_end(qwen: Qwen, engine: Engine) -> None:
    listeners = [Listener() for _ in PROMPTS]
    for prompt, listen in zip(PROMPTS, listeners, strict=True):
        engine.submit(row(qwen, prompt), listen=listen)
    for listen in listeners:
        last = listen.wait()
        assert last.row.finished and last.error is None
        assert len(listen.updates) == 12
        assert [e for u in listen.updates for e in u.events] == [Finish("length")]


def test_nothing_is_told_while_a_prompt_is_read_in_pieces(qwen: Qwen) -> None:
    engine, listen = Engine(qwen, config=EngineConfig(step_tokens=8)), Listener()
    engine.submit(row(qwen, PROMPTS[2], max_tokens=2), listen=listen)
    for count in (0, 0, 0, 0, 1, 2):
        engine._step()
        assert len(listen.updates) == count
    nothing_left(engine)


def test_rows_submitted_from_many_threads_all_end(qwen: Qwen, engine: Engine) -> None:
    expected = qwen.generate([7, 8, 9], GREEDY).token_ids
    found: list[list[int]] = []

    def client() -> None:
        for _ in range(3):
            listen = Listener()
            engine.submit(row(qwen, [7, 8, 9]), listen=listen)
            found.append(listen.wait().row.result().token_ids)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 12


def test_an_aborted_request_is_gone_before_the_next_step(qwen: Qwen) -> None:
    engine = Engine(qwen)
    gone, stays = Listener(), Listener()
    tickets = [
        engine.submit(row(qwen, [1, 2, n], max_tokens=100), listen=x) for n, x in ((3, gone), (4, stays))
    ]
    engine._step()
    assert engine.statistics().pages_used == 2
    engine.abort(tickets[0])
    engine.abort(tickets[0])  # twice is no more than once
    engine._step()
    assert engine.statistics().pages_used == 1 and engine.statistics().running == 1
    assert gone.wait().row.result().finish_reason == "interrupted"
    assert not stays.ended.is_set()
    engine.abort(tickets[1])
    engine._step()
    engine.abort(tickets[1])
    engine.abort(Ticket("999", tickets[0].row))
    engine._step()
    nothing_left(engine)


def test_a_request_aborted_while_it_waits_is_never_computed(qwen: Qwen) -> None:
    engine = Engine(qwen, config=EngineConfig(max_batch=1))
    listen = Listener()
    engine.submit(row(qwen, [1]), listen=Listener())
    ticket = engine.submit(row(qwen, [2, 3]), listen=listen)
    engine.abort(ticket)
    engine._step()
    assert listen.wait().row.num_computed == 0
    engine.stop()
    nothing_left(engine)


def test_a_listener_that_raises_loses_only_its_own_request(qwen: Qwen, engine: Engine) -> None:
    def raises(update: Update) -> None:
        raise KeyError("a bug of the listener's")

    other, bad = Listener(), row(qwen, [1, 2, 3])
    engine.submit(bad, listen=raises)
    engine.submit(row(qwen, [4, 5]), listen=other)
    assert other.wait().row.result().finish_reason == "length"
    assert bad.finished and len(bad.output) < 12
    assert engine.healthy


def test_a_listener_may_abort_and_submit(qwen: Qwen, engine: Engine) -> None:
    second, tickets = Listener(), list[Ticket]()
    ready = threading.Event()

    def first(update: Update) -> None:
        ready.wait(20)
        if not update.row.finished:
            engine.abort(tickets[0])
        else:
            engine.submit(row(qwen, [9]), listen=second)

    tickets.append(engine.submit(row(qwen, [1, 2, 3]), listen=first))
    ready.set()
    assert second.wait().row.result().finish_reason == "length"
    assert tickets[0].row.result().finish_reason == "interrupted"


def test_a_step_that_crashes_fails_those_in_it_and_the_engine_goes_on(qwen: Qwen) -> None:
    engine = Engine(qwen, config=EngineConfig(max_batch=2))
    slow = Slow(engine)
    listeners = [Listener() for _ in range(3)]
    for n, listen in enumerate(listeners):
        engine.submit(row(qwen, [n, n, n]), listen=listen)
    engine.start()
    slow.entered.acquire()
    slow.let.release()
    slow.entered.acquire()
    slow.failing = True
    slow.let.release()
    for listen in listeners[:2]:
        error = listen.wait().error
        assert isinstance(error, Failed) and str(error.__cause__) == "out of memory"
    slow.entered.acquire()
    slow.failing = False
    for _ in range(20):
        slow.let.release()
    assert listeners[2].wait().error is None
    assert engine.healthy and engine.statistics().failures == 1
    engine.stop()
    nothing_left(engine)


def test_run_raises_what_failed_and_can_be_used_again(qwen: Qwen, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(qwen)
    with monkeypatch.context() as patch:
        patch.setattr(engine._runner.cache, "begin", lambda rows: 1 / 0)
        with pytest.raises(Failed) as caught:
            engine.run([row(qwen, [1])])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    same(engine.run([row(qwen, PROMPTS[0])]), [qwen.generate(PROMPTS[0], GREEDY)])
    nothing_left(engine)


def test_an_error_in_choosing_a_token_is_its_rows_own(qwen: Qwen, engine: Engine) -> None:
    bad, good = row(qwen, [1, 2]), row(qwen, [1, 3])
    bad.sampler.choose = lambda *args, **fields: 1 / 0  # type: ignore[method-assign, assignment]
    listeners = Listener(), Listener()
    for one, listen in zip((bad, good), listeners, strict=True):
        engine.submit(one, listen=listen)
    assert isinstance(listeners[0].wait().error, Failed)
    assert listeners[1].wait().error is None
    assert engine.statistics().failures == 0


def test_an_engine_that_dies_says_so_to_everybody(qwen: Qwen, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(qwen)
    monkeypatch.setattr(engine._scheduler, "plan", lambda **limit: 1 / 0)
    listen = Listener()
    engine.submit(row(qwen, [1]), listen=listen)
    engine.start()
    assert isinstance(listen.wait().error, Failed)
    wait_for(lambda: not engine.healthy)
    with pytest.raises(Stopping):
        engine.submit(row(qwen, [1]), listen=listen)
    engine.stop()
    nothing_left(engine)


def test_a_full_queue_is_busy_and_run_is_not(qwen: Qwen) -> None:
    engine = Engine(qwen, config=EngineConfig(max_queue=2, max_batch=1))
    listeners = [Listener() for _ in range(3)]
    for n in range(2):
        engine.submit(row(qwen, [n]), listen=listeners[n])
    with pytest.raises(Busy, match="queue is full"):
        engine.submit(row(qwen, [2]), listen=listeners[2])
    engine._step()  # one of the two begins
    engine.submit(row(qwen, [2]), listen=listeners[2])
    with pytest.raises(Busy):
        engine.submit(row(qwen, [3]), listen=Listener())
    assert engine.statistics().waiting == 2
    assert len(engine.run([row(qwen, [n]) for n in range(4)])) == 4
    assert all(listen.wait().error is None for listen in listeners)


def test_a_prompt_that_can_never_fit_is_refused_with_what_to_do(qwen: Qwen) -> None:
    engine = Engine(qwen, config=EngineConfig(cache_tokens=32))
    for make in (engine.intake.text, qwen.intake.text):
        with pytest.raises(ValueError, match=r"33 tokens and the cache holds 32.*--cache-tokens"):
            engine.submit(make([1] * 33, GREEDY), listen=Listener())
    with pytest.raises(ValueError, match="33 tokens"):
        engine.run([row(qwen, [1]), row(qwen, [1] * 33)])
    assert engine.statistics().waiting == 0
    [fits] = engine.run([row(qwen, [1] * 32)])  # the one token of its answer is not computed any more
    assert (fits.usage.completion_tokens, fits.finish_reason) == (1, "length")
    nothing_left(engine)


@pytest.mark.parametrize("max_tokens", [None, 200])
def test_an_answer_ends_by_length_where_a_cache_smaller_than_the_context_is_full(
    qwen: Qwen, max_tokens: int | None
) -> None:
    """It was refused, though max_tokens was left open. Several of them push each other out, but all end."""
    engine = Engine(qwen, config=EngineConfig(cache_tokens=64, page_size=4))
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    made = [intake.text([n] * 20, params) for intake in (engine.intake, qwen.intake) for n in range(3)]
    results = engine.run(made[1:])
    listen = Listener()
    engine.submit(made[0], listen=listen)
    while not listen.ended.is_set():
        engine._step()
    results.insert(0, listen.wait().row.result())
    expected = [qwen.generate([n] * 20, GREEDY, max_tokens=45) for n in range(3)]
    same(results, [*expected, *expected])
    assert {r.finish_reason for r in results} == {"length"}
    assert 0 < engine.statistics().preemptions < 50
    nothing_left(engine)


def test_what_asks_for_more_than_a_small_cache_has_room_for_is_refused(pocket: Qwen) -> None:
    engine = Engine(pocket, config=EngineConfig(cache_tokens=64))
    for intake in (engine.intake, pocket.intake):
        for fields, match in (
            ({"min_tokens": 60}, "min_tokens is 60"),
            ({"thinking_budget": 60}, "is 60 and"),
        ):
            with pytest.raises(ValueError, match=match):
                engine.run([intake.chat("Hi", None, None, SamplingParams(**fields))])
    nothing_left(engine)


def test_a_thinking_budget_leaves_room_for_the_answer_in_a_small_cache(pocket: Qwen) -> None:
    engine = Engine(pocket, config=EngineConfig(cache_tokens=96))
    params = SamplingParams(temperature=0.0, thinking_budget=8)
    rows = [one.chat("What is 347 * 86?", None, None, params) for one in (engine.intake, pocket.intake)]
    results = engine.run(rows)
    assert results[0].usage.forced_tokens > 0 and results[0].content
    same(results, [pocket.chat("What is 347 * 86?", params=params, max_tokens=len(results[0].token_ids))] * 2)


def test_stop_lets_running_answers_end_and_refuses_new_ones(qwen: Qwen) -> None:
    engine = Engine(qwen)
    engine.start()
    listen = Listener()
    engine.submit(row(qwen, [1, 2], max_tokens=40), listen=listen)
    engine.stop(drain=20)
    assert listen.wait().row.result().finish_reason == "length"
    assert not engine.healthy
    for call in (lambda: engine.submit(row(qwen, [1]), listen=listen), engine.start):
        with pytest.raises(Stopping):
            call()
    engine.stop()


def test_stop_ends_what_is_not_done_when_its_time_is_over(qwen: Qwen) -> None:
    engine = Engine(qwen, config=EngineConfig(max_batch=1))
    slow = Slow(engine)
    listeners = Listener(), Listener()
    for listen in listeners:
        engine.submit(row(qwen, [1, 2], max_tokens=200), listen=listen)
    engine.start()
    slow.entered.acquire()
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    wait_for(lambda: engine._inbox.closed)
    slow.let.release()
    stopper.join(20)
    assert [x.wait().row.result().finish_reason for x in listeners] == ["interrupted"] * 2
    assert all(x.updates[-1].error is None for x in listeners)
    nothing_left(engine)


def test_ctrl_c_returns_what_there_is(qwen: Qwen, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(qwen)
    step, steps = engine._step, iter(range(100))

    def press() -> None:
        if next(steps) == 3:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(engine, "_step", press)
    results = engine.run([row(qwen, prompt) for prompt in PROMPTS])
    assert [r.finish_reason for r in results] == ["interrupted"] * 3
    assert [r.usage.completion_tokens for r in results] == [3] * 3
    nothing_left(engine)


def test_several_answers_to_one_prompt_compute_it_once(qwen: Qwen) -> None:
    engine = Engine(qwen)
    prompt = [*range(1, 100)]
    rows = [row(qwen, prompt, temperature=1.0, seed=n) for n in range(5)]
    results = engine.run(rows)
    same(results, [qwen.generate(prompt, GREEDY, temperature=1.0, seed=n) for n in range(5)])
    assert [r.usage.cached_tokens for r in results] == [0, 96, 96, 96, 96]
    assert engine.statistics().computed_tokens == 99 + 4 * 3 + 5 * 11


def test_a_long_prompt_comes_in_pieces_while_others_write_and_at_once_when_nobody_does(qwen: Qwen) -> None:
    engine = Engine(qwen, config=EngineConfig(page_size=8, step_tokens=240))
    plans, run = list[Any](), engine._runner
    engine._runner = lambda plan: plans.append(plan) or run(plan)  # type: ignore[assignment, func-returns-value]
    long = [n % 100 for n in range(200)]
    engine.submit(row(qwen, long, max_tokens=1), listen=Listener())
    engine._step()
    assert plans[0].num_tokens == 200
    engine.submit(row(qwen, [1, 2], max_tokens=50), listen=Listener())
    engine._step()
    engine.submit(row(qwen, long[::-1], max_tokens=1), listen=Listener())
    engine._step()
    assert plans[2].num_tokens == 1  # nothing is known of what such a step takes
    engine._stretch.writing, engine._stretch._size = 100.0, 50.0
    engine._step()
    assert (plans[3].num_writing, plans[3].num_read) == (1, 50)
    engine.submit(row(qwen, [3] * 90, max_tokens=1), listen=Listener())
    engine._step()
    assert plans[4].num_writing == 1  # a short one need not wait behind a long one
    assert [len(chunk.tokens) for chunk in plans[4].chunks] == [1, 60, 90]
    engine.stop()
    nothing_left(engine)


def test_requests_of_different_salts_share_nothing(qwen: Qwen, engine: Engine) -> None:
    for salt, cached in (("a", 0), ("b", 0), ("a", 32)):
        listen = Listener()
        engine.submit(row(qwen, [5] * 40), listen=listen, salt=salt)
        assert listen.wait().row.num_cached == cached


def test_a_scored_prompt_takes_nothing_from_the_cache_and_gets_its_scores(qwen: Qwen) -> None:
    engine = Engine(qwen)
    prompt = [n % 7 for n in range(150)]
    rows = [qwen.intake.text(prompt, GREEDY, prompt_logprobs=k) for k in (None, 2)]
    result = [engine.run([one])[0] for one in rows][1]
    expected = qwen.generate(prompt, GREEDY, prompt_logprobs=2).prompt_logprobs
    assert expected is not None and result.prompt_logprobs is not None
    assert result.usage.cached_tokens == 0 and len(result.prompt_logprobs) == 150
    for ours, theirs in zip(result.prompt_logprobs[1:], expected[1:], strict=True):
        assert ours is not None and theirs is not None
        assert ours.token_id == theirs.token_id and abs(ours.logprob - theirs.logprob) < 1e-4
        assert [t[0] for t in ours.top] == [t[0] for t in theirs.top]


def test_statistics_count_what_happened(qwen: Qwen) -> None:
    engine = Engine(qwen, config=EngineConfig(cache_tokens=64, page_size=8))
    before = engine.statistics()
    assert (before.pages_total, before.page_size, before.last_step) == (8, 8, None)
    engine.run([row(qwen, [1, 2, 3])])
    now = engine.statistics()
    assert (now.prompt_tokens, now.generated_tokens, now.computed_tokens, now.steps) == (3, 12, 14, 12)
    assert now.pages_cached == 1 and now.last_step is not None and now.step_seconds > 0


def test_drafted_tokens_save_steps_and_are_counted(qwen: Qwen) -> None:
    prompt = [3, 1, 4, 1, 5]
    again = [*prompt, *qwen.generate(prompt, GREEDY, max_tokens=60).token_ids] * 2
    engine = Engine(qwen, config=EngineConfig(speculative=6))
    [result] = engine.run([row(qwen, again[:80], max_tokens=40)])
    assert result.token_ids == qwen.generate(again[:80], GREEDY, max_tokens=40).token_ids
    now = engine.statistics()
    assert now.accepted_tokens > 0 and now.drafted_tokens >= now.accepted_tokens
    assert now.steps + now.accepted_tokens == 40 > now.steps


def test_preempted_answers_are_the_same(qwen: Qwen) -> None:
    engine = Engine(qwen, config=EngineConfig(cache_tokens=64, page_size=4))
    rows = [row(qwen, [n, n + 1, n + 2], max_tokens=30) for n in range(5)]
    same(engine.run(rows), [qwen.generate([n, n + 1, n + 2], GREEDY, max_tokens=30) for n in range(5)])
    assert engine.statistics().preemptions > 0
    nothing_left(engine)


def test_the_cache_holds_one_context_at_least_and_what_it_is_told(qwen: Qwen) -> None:
    assert Engine(qwen).statistics().pages_total >= 256 // 16
    assert Engine(qwen, config=EngineConfig(cache_tokens=100)).statistics().pages_total == 7


def test_a_context_that_memory_can_t_hold_is_said_with_what_to_do(
    qwen: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pureqwen.serve.runner.free_bytes", lambda device: 1)
    with pytest.raises(
        ValueError, match=r"256 tokens takes \d+ bytes and 1 are free.*--cache-tokens.*--context"
    ):
        Engine(qwen)


def test_a_cache_that_is_larger_than_the_free_memory_is_refused_before_it_is_made(qwen: Qwen) -> None:
    """A CPU's memory is given when it is written to: the process was killed then, amid its answers."""
    with pytest.raises(
        ValueError, match=r"of 1000000000000 tokens takes .*room for \d+ tokens.*--cache-tokens\)$"
    ):
        Engine(qwen, config=EngineConfig(cache_tokens=10**12))


def test_a_cache_that_just_fits_is_made(qwen: Qwen, monkeypatch: pytest.MonkeyPatch) -> None:
    each = bytes_per_token(qwen.config, qwen.dtype)
    monkeypatch.setattr("pureqwen.serve.runner.free_bytes", lambda device: 64 * each)
    assert Engine(qwen, config=EngineConfig(cache_tokens=64)).statistics().pages_total == 4
    with pytest.raises(ValueError, match="room for 64 tokens"):
        Engine(qwen, config=EngineConfig(cache_tokens=65))


def test_a_request_that_hangs_makes_the_engine_unhealthy(qwen: Qwen, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(qwen)
    slow = Slow(engine)
    engine.start()
    engine.submit(row(qwen, [1], max_tokens=1), listen=Listener())
    slow.entered.acquire()
    assert engine.healthy
    monkeypatch.setattr("pureqwen.serve.engine.STUCK", 0.0)
    assert not engine.healthy
    slow.let.release()
    wait_for(lambda: engine.healthy)
    engine.stop()


@torch.no_grad()
def test_logprobs_penalties_and_seeds_are_each_requests_own(qwen: Qwen, engine: Engine) -> None:
    kinds = (
        {"temperature": 1.3, "seed": 1, "top_p": 0.9},
        {"temperature": 0.7, "seed": 1, "repetition_penalty": 1.3, "logprobs": True, "top_logprobs": 3},
        {"presence_penalty": 0.5, "logit_bias": {5: 3.0}, "min_tokens": 4},
    )
    results = engine.run([row(qwen, PROMPTS[2], **fields) for fields in kinds])
    same(results, [qwen.generate(PROMPTS[2], GREEDY, **fields) for fields in kinds])
    assert [r.logprobs is None for r in results] == [True, False, True]


def test_a_model_whose_blocks_are_compiled_is_run_as_it_is_written(engine: Engine) -> None:
    """Each step has another shape: the compiler would be busy with nothing else."""
    other = Qwen(build(tiny(num_hidden_layers=2)))

    def backend(graph: Any, inputs: Any) -> Any:
        raise AssertionError("the compiler was called")

    for block in other.model.model.layers:
        block.compile(backend=backend)
    offline = Engine(other)
    same(offline.run([row(other, PROMPTS[0])]), engine.run([row(other, PROMPTS[0])]))


def test_forms_and_thinking_budgets_are_those_of_generate(pocket: Qwen) -> None:
    """A row keeps its own rules; the engine knows nothing of them."""
    form = pocket.grammars.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}})
    params = SamplingParams(temperature=0.0, max_tokens=60, thinking_budget=8)
    asked = ["What is 347 * 86?", "Give a as JSON."]
    rows = [pocket.intake.chat(text, None, None, params, constraint=form) for text in asked]
    free = [pocket.intake.chat(text, None, None, params) for text in asked]
    expected = [pocket.chat(text, params=params, constraint=form) for text in asked]
    results = Engine(pocket, config=EngineConfig(speculative=4)).run([*rows, *free])
    same(results, [*expected, *(pocket.chat(text, params=params) for text in asked)])
    assert results[0].usage.forced_tokens > 0 and (results[0].content or "").startswith("{")


def test_a_crowd_that_comes_and_leaves_as_it_likes_leaves_nothing_behind(qwen: Qwen) -> None:
    """Few pages, shared beginnings, drafts, and every third request given up in the middle: each gets what it
    gets alone, as far as it goes.
    """
    config = EngineConfig(cache_tokens=160, page_size=4, step_tokens=48, speculative=3, max_batch=6)
    engine = Engine(qwen, config=config)
    engine.start()
    ended: list[tuple[int, Row]] = []

    def client(number: int) -> None:
        for n in range(number * 6, number * 6 + 6):
            listen, one = Listener(), row(qwen, [*range(10), n % 4, n % 3], temperature=n % 2 / 1, seed=n)
            ticket = engine.submit(one, listen=listen)
            if n % 3 == 0:
                wait_for(lambda one=one, n=n: len(one.output) >= n % 5 or one.finished)
                engine.abort(ticket)
            ended.append((n, listen.wait().row))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 30 and engine.healthy
    engine.stop()
    nothing_left(engine)
    for n, one in ended:
        alone = qwen.generate([*range(10), n % 4, n % 3], GREEDY, temperature=n % 2 / 1, seed=n).token_ids
        assert one.output == alone[: len(one.output)]
        assert len(one.output) == 12 or n % 3 == 0
