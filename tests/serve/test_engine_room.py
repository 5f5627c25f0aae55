"""The engine's room: what is found, what is computed, in how much memory, and what comes where it is full."""

from typing import Any

import pytest
from listening import GREEDY, Listener, nothing_left, row, same
from peers import build, tiny

from pureqwen import Engine, EngineConfig, Qwen, SamplingParams
from pureqwen.cache import bytes_per_token
from pureqwen.generate import Row


@pytest.fixture(scope="module")
def qwen() -> Qwen:
    return Qwen(build(tiny(num_hidden_layers=2)), name="tiny")


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


@pytest.mark.parametrize("page_size", [8, 256])
@pytest.mark.parametrize("gone", [False, True])
def test_a_prompt_of_several_answers_is_scored_and_kept_once(
    qwen: Qwen, monkeypatch: pytest.MonkeyPatch, page_size: int, gone: bool
) -> None:
    """Of 16 answers to a long prompt each made objects for all of it. gone: the first is given up amid it."""
    prompt = [n % 7 for n in range(150)]
    expected = qwen.generate(prompt, GREEDY, prompt_logprobs=2).prompt_logprobs
    engine, scored = Engine(qwen, config=EngineConfig(page_size=page_size)), []
    rows = [qwen.intake.text(prompt, GREEDY, prompt_logprobs=2) for _ in range(4)]
    for other in rows[1:]:
        other.share_prompt_logprobs(rows[0])
    score = Row.score

    def counted(self: Row, *args: Any, **fields: Any) -> Any:
        scored.append(self)
        return score(self, *args, **fields)

    monkeypatch.setattr(Row, "score", counted)
    listeners = [Listener() for _ in rows]
    tickets = [engine.submit(one, listen=listen) for one, listen in zip(rows, listeners, strict=True)]
    engine._step()
    if gone:
        engine.abort(tickets[0])
    while not all(listen.ended.is_set() for listen in listeners):
        engine._step()
    assert len(scored) == 149
    results = [listen.wait().row.result() for listen in listeners[gone:]]
    same(results, [qwen.generate(prompt, GREEDY)] * len(results))
    for result in results:
        assert expected is not None and result.prompt_logprobs is not None
        for ours, theirs in zip(result.prompt_logprobs[1:], expected[1:], strict=True):
            assert ours is not None and theirs is not None and ours.token_id == theirs.token_id
            assert abs(ours.logprob - theirs.logprob) < 1e-4
    nothing_left(engine)


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
