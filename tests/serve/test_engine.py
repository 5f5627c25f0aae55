"""The engine: what its callers see, who is hurt by what goes wrong, and that nothing is left behind."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from listening import GREEDY, Listener, Slow, nothing_left, row, same
from peers import build, tiny
from running import wait_for

from pureqwen import Engine, EngineConfig, Qwen, SamplingParams
from pureqwen.chat import Finish
from pureqwen.generate import Row
from pureqwen.serve.engine import Busy, Failed, Stopping, Ticket, Update

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
        patch.setattr(engine._runner.cache, "begin", lambda rows, **how: 1 / 0)
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


@pytest.mark.parametrize("where", ["remove", "plan"])
def test_where_the_books_are_wrong_every_request_is_told_all_the_same(
    qwen: Qwen, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The first one that could not be ended in order left all others waiting for ever."""
    engine, listeners = Engine(qwen), [Listener() for _ in range(4)]
    remove = engine._scheduler.remove

    def fails(request: Any) -> None:
        remove(request)
        assert request.number not in (1, 3), "a page that nobody has"

    monkeypatch.setattr(engine._scheduler, "remove", fails)
    if where == "plan":
        monkeypatch.setattr(engine._scheduler, "plan", lambda **limit: 1 / 0)
    for n, listen in enumerate(listeners):
        engine.submit(row(qwen, [n], max_tokens=2 if n == 0 else 200), listen=listen)
    engine.start()
    assert all(isinstance(listen.wait().error, Failed) for listen in listeners)
    wait_for(lambda: not engine.healthy)
    engine.stop()
    nothing_left(engine)


def test_a_panic_that_is_no_exception_kills_one_request_and_not_the_engine(
    qwen: Qwen, engine: Engine
) -> None:
    """CVE-2026-105757: what a grammar's matcher raises when it panics is none of Exception."""

    class Panic(BaseException):
        pass

    def panics(*args: Any, **fields: Any) -> int:
        raise Panic

    bad, good = row(qwen, [1, 2]), row(qwen, [1, 3])
    bad.sampler.choose = panics  # type: ignore[method-assign]
    listeners = Listener(), Listener()
    for one, listen in zip((bad, good), listeners, strict=True):
        engine.submit(one, listen=listen)
    assert isinstance(listeners[0].wait().error, Failed)
    assert listeners[1].wait().error is None and engine.healthy


def test_an_engine_whose_steps_all_crash_is_not_healthy_until_one_succeeds(
    qwen: Qwen, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/ready said yes for ever, to nothing but errors."""

    def ask() -> Update:
        listen = Listener()
        engine.submit(row(qwen, [1], max_tokens=1), listen=listen)
        return listen.wait()

    with monkeypatch.context() as patch:
        patch.setattr(engine._runner.cache, "begin", lambda rows, **how: 1 / 0)
        for healthy in (True, True, False, False):
            assert ask().error is not None
            assert (engine.healthy, engine.alive) == (healthy, True)
    assert ask().error is None and engine.healthy
    with monkeypatch.context() as patch:
        patch.setattr(engine._runner.cache, "begin", lambda rows, **how: 1 / 0)
        assert ask().error is not None and engine.healthy


def test_a_full_queue_is_busy_and_run_is_not(qwen: Qwen) -> None:
    engine = Engine(qwen, config=EngineConfig(max_queue=2, max_batch=1))
    listeners = [Listener() for _ in range(3)]
    for n in range(3):  # one of them begins with the next step, and does not wait
        assert engine.room == 3 - n
        engine.submit(row(qwen, [n]), listen=listeners[n])
    with pytest.raises(Busy, match="queue is full"):
        engine.submit(row(qwen, [3]), listen=Listener())
    engine._step()
    assert engine.room == 0
    with pytest.raises(Busy):
        engine.submit(row(qwen, [3]), listen=Listener())
    assert engine.statistics().waiting == 2
    assert len(engine.run([row(qwen, [n]) for n in range(4)])) == 4
    assert all(listen.wait().error is None for listen in listeners)


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


def test_requests_of_different_salts_share_nothing(qwen: Qwen, engine: Engine) -> None:
    for salt, cached in (("a", 0), ("b", 0), ("a", 32)):
        listen = Listener()
        engine.submit(row(qwen, [5] * 40), listen=listen, salt=salt)
        assert listen.wait().row.num_cached == cached


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


def test_an_end_inside_a_thought_that_a_form_waits_behind_is_that_of_generate(pocket: Qwen) -> None:
    assert pocket.tokenizer is not None
    [end, think] = pocket.tokenizer.encode("<|im_end|><think>", allow_special=True)
    form = pocket.grammars.regex("[0-9]{2}[a-z]*")
    params = SamplingParams(temperature=0.0, max_tokens=60, logit_bias={end: 100.0, think: 50.0})
    rows = [pocket.intake.chat("Hi", None, None, params, constraint=form) for _ in range(2)]
    results = Engine(pocket, config=EngineConfig(speculative=4)).run(rows)
    same(results, [pocket.chat("Hi", params=params, constraint=form)] * 2)
    assert [(r.usage.forced_tokens, len(r.content or "")) for r in results] == [(2, 2)] * 2


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
