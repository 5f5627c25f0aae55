"""What a run computes: how many tokens behind how many, how often, and on a cache that holds what it says."""

import itertools

import pytest
import torch

from pureqwen.cache import StaticCache
from pureqwen.evaluate import speed
from pureqwen.evaluate.speed import Plan, Sample
from pureqwen.qwen import Qwen


@pytest.mark.parametrize("context", [4, 5, 33, 64, 600, 40_960])
@pytest.mark.parametrize("room", [0, 100, 10**9])
def test_a_plan_fits_into_the_context(context: int, room: int) -> None:
    plan = Plan().clipped(context, room=room)
    assert 1 <= plan.answer <= 32
    for tokens in (plan.prompt, plan.batch_prompt, plan.long, plan.start_prompt):
        assert tokens >= 1
        assert tokens + plan.answer + 2 <= context
    assert plan.long <= max(room, 1)


def test_a_long_context_gets_the_whole_plan() -> None:
    assert Plan().clipped(40_960, room=10**9) == Plan()


def test_a_context_in_which_nothing_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="a context of 3 tokens is too short to measure: it takes 4"):
        Plan().clipped(3, room=100)


@pytest.mark.parametrize("context", [4, 256])
def test_a_run_computes_the_prompt_and_then_a_token_a_step(
    context: int, qwen: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    qwen.context = context
    plan = Plan(answer=3, runs=2).clipped(context, room=10**6)
    begun: list[list[tuple[int, int]]] = []
    begin = StaticCache.begin
    monkeypatch.setattr(
        StaticCache, "begin", lambda cache, rows: (begun.append(list(rows)), begin(cache, rows))[1]
    )
    prompts, answers = speed.prompt_and_answer(qwen, plan)
    assert len(prompts.seconds) == len(answers.seconds) == 2
    once = [[(0, plan.prompt)], *([(plan.prompt + n, 1)] for n in range(plan.answer))]
    assert begun == once * 3, "a run that warms up, and two"


def test_a_batch_steps_all_its_rows_behind_the_cached_tokens(
    qwen: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[tuple[int, int]]] = []
    begin = StaticCache.begin
    cache = speed.filled_cache(qwen, batch=3, cached=20, limit=25)
    monkeypatch.setattr(
        StaticCache, "begin", lambda cache, rows: (begun.append(list(rows)), begin(cache, rows))[1]
    )
    times = speed.stamped(qwen, cache, batch=3, cached=20, steps=2)
    assert len(times) == 3
    assert begun == [[(20 + n, 1)] * 3 for n in range(3)]


def test_a_filled_cache_is_written_memory_of_each_layer_s_own(qwen: Qwen) -> None:
    cache = speed.filled_cache(qwen, batch=2, cached=30, limit=40)
    tensors = [x for attend in cache.attends for x in (attend.k, attend.v)]
    assert all((x[:, :30] != 0).all() for x in tensors), "zeros that nobody wrote are no memory yet"
    assert len({x.data_ptr() for x in tensors}) == len(tensors)


def test_an_answer_in_the_bench_is_the_model_s_own(qwen: Qwen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that is measured must be the loop that answers."""
    ids = torch.randint(0, qwen.config.vocab_size, (12,))
    monkeypatch.setattr(torch, "randint", lambda *_: ids[None])
    rows: list[object] = []
    decode = speed.decode
    monkeypatch.setattr(
        speed, "decode", lambda given, compute: (rows.extend(given), decode(given, compute))[1]
    )
    speed.stamped(qwen, speed.new_cache(qwen, batch=1, limit=32), now=12, steps=4)
    [row] = rows
    expected = qwen.generate(ids, temperature=0, max_tokens=5, ignore_eos=True)
    assert row.output == expected.token_ids  # type: ignore[attr-defined]


def test_runs_end_early_when_they_take_long_but_never_before_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count(step=10)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(clock)))
    numbers = itertools.count()
    assert speed.repeated(lambda: next(numbers), Plan(runs=7, patience=35)) == [1, 2, 3, 4, 5]
    assert len(speed.repeated(lambda: 0, Plan(runs=7, patience=0))) == 2
    assert len(speed.repeated(lambda: 0, Plan(runs=3, patience=1e9))) == 3


def test_the_median_is_the_middle_run() -> None:
    assert Sample((3.0, 1.0, 9.0)).median == 3
