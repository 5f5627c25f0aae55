"""The equivalence ladder, engine: a request's tokens are those of `generate`, whatever else the engine does.

    full forward == alone == among 31 strangers == chunked == prefix found == preempted == drafted ahead

float32, greedy, as in test_ladder: the logits of every step are compared, the best leads the second clearly.
What begins at transformers there is continued here.
"""

from typing import Any

import pytest
import torch
from peers import VARIANTS, build, tiny
from tapes import Tape, device

from pureqwen import Engine, EngineConfig, Qwen, SamplingParams, kernels
from pureqwen.cache.paged import gathered
from pureqwen.generate import Full, Row, Sampler, decode
from pureqwen.rewrite import FusedBlock, for_cpu
from pureqwen.serve.decoding import Decodings
from pureqwen.serve.scheduler import Plan

__all__ = ["device"]  # a fixture

STEPS = 32
PROMPTS = ([3, 17, 250, 9, 101], [200], [*range(40, 60), 5, 5, 88, 31, 7, 64, 190, 2, 44, 121, 13, 6, 99])
GREEDY = SamplingParams(temperature=0.0, max_tokens=STEPS, ignore_eos=True)
NATIVE = "native code and fused blocks"


class Recorder(Sampler):
    """A sampler that keeps the raw logits of each step."""

    steps: list[torch.Tensor]

    def choose(self, logits: torch.Tensor, **how: Any) -> int:
        self.steps.append(logits.clone())
        return super().choose(logits, **how)


def row(qwen: Qwen, prompt: list[int], params: SamplingParams = GREEDY) -> Row:
    one = qwen.intake.text(prompt, params)
    one.sampler.__class__, one.sampler.steps = Recorder, []  # type: ignore[attr-defined]
    return one


@pytest.fixture(scope="module", params=[*VARIANTS, NATIVE])
def rung(request: pytest.FixtureRequest) -> tuple[Qwen, list[Row]]:
    """A model, and its prompts' answers by the definition, without any cache."""
    native = request.param == NATIVE
    config = tiny(**({"head_dim": 32} if native else VARIANTS[request.param]))
    model = for_cpu(build(config)) if native else build(config)
    qwen = Qwen(model)
    rows = [row(qwen, prompt) for prompt in PROMPTS]
    for _ in decode(rows, Full(model)):
        pass
    for one in rows:
        best, second = torch.stack(one.sampler.steps).topk(2).values.unbind(-1)  # type: ignore[attr-defined]
        assert (best - second).min() > 1e-4, "a near tie: this seed can't tell right from wrong"
        assert len(set(one.output)) >= 12
    return qwen, rows


def strangers(qwen: Qwen, count: int, *, least: int = 4) -> list[Row]:
    """Other prompts, of all lengths, sampled in all ways, that end at different times."""
    rows = []
    for n in range(count):
        prompt = [(n * 37 + 11 * at) % 256 for at in range(1 + n * 3 % 70)]
        params = SamplingParams(temperature=n % 3 / 2, seed=n, max_tokens=least + n, ignore_eos=True)
        rows.append(row(qwen, prompt, params))
    return rows


def assert_equal(rows: list[Row], expected: list[Row]) -> None:
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours.output == theirs.output
        found, wanted = (torch.stack(one.sampler.steps) for one in (ours, theirs))  # type: ignore[attr-defined]
        assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()


def test_recorded_steps_give_the_logits_of_the_full_forward(
    rung: tuple[Qwen, list[Row]], device: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA: steps filled up to few shapes and replayed, while prompts and other shapes come between."""
    qwen, expected = rung
    if not any(isinstance(block, FusedBlock) for block in qwen.model.model.layers):
        monkeypatch.setattr(kernels, "paged_attention", gathered)
    engine = Engine(qwen, config=EngineConfig(step_tokens=40, page_size=4, max_batch=34))
    runner = engine._runner
    runner.decoding = Decodings(runner.model, runner.cache)
    for _ in range(2):
        rows, others = [row(qwen, prompt) for prompt in PROMPTS], strangers(qwen, 31)
        engine.run([*others[:12], *rows, *others[12:]])
        assert_equal(rows, expected)
    if qwen.config.num_experts:  # the loop over experts asks how many rows each got
        assert not device
    else:
        assert sum(tape.replays for tape in device) > 3 * len(device) > 0


def test_recordings_end_with_the_weights_and_are_not_for_listeners_or_rows_of_very_other_lengths(
    device: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "paged_attention", gathered)
    qwen = Qwen(build(tiny()))
    engine = Engine(qwen, config=EngineConfig(page_size=4, cache_tokens=512))
    runner = engine._runner
    runner.decoding = decodings = Decodings(runner.model, runner.cache)

    def recorded() -> int:
        device.clear()
        engine.run([row(qwen, prompt) for prompt in PROMPTS])
        return len(device)

    assert recorded() > 0
    assert recorded() == 0  # they are known
    layer = qwen.model.model.layers[0]
    layer.mlp.down_proj.weight = torch.nn.Parameter(layer.mlp.down_proj.weight * 2)  # type: ignore[union-attr]
    assert recorded() > 0
    heard: list[int] = []
    hook = layer.register_forward_hook(lambda *_: heard.append(1))
    for tape in decodings.known.values():
        tape.recording.graph.replays = 0
    recorded()
    assert len(heard) >= STEPS
    assert not any(tape.recording.graph.replays for tape in decodings.known.values())
    hook.remove()
    assert decodings.cache.uneven([([], 60_000, 1), *[([], 200, 1)] * 31])
    assert not decodings.cache.uneven([([], 60_000, 1)] * 31)


def test_alone_it_gives_the_tokens_of_the_full_forward(rung: tuple[Qwen, list[Row]]) -> None:
    qwen, expected = rung
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        one = row(qwen, prompt)
        Engine(qwen).run([one])
        assert_equal([one], [answer])


def test_among_strangers_and_in_chunks_it_gives_the_same(rung: tuple[Qwen, list[Row]]) -> None:
    qwen, expected = rung
    rows, others = [row(qwen, prompt) for prompt in PROMPTS], strangers(qwen, 31, least=20)
    # Every prompt is short for this budget, so no clock decides when it is read; our third comes in two.
    engine = Engine(qwen, config=EngineConfig(step_tokens=144, max_batch=34))
    plans, run = list[Plan](), engine._runner
    engine._runner = lambda plan: plans.append(plan) or run(plan)  # type: ignore[assignment, func-returns-value]
    engine.run([*others[:9], *rows, *others[9:]])
    assert_equal(rows, expected)
    assert any(chunk.request.row is rows[2] and not chunk.keep for plan in plans for chunk in plan.chunks)
    together = [{chunk.request.row for chunk in plan.chunks} for plan in plans if len(plan.chunks) == 34]
    assert len(together) >= 10 and all(set(rows) <= found for found in together)


def test_a_beginning_that_is_found_gives_the_same(rung: tuple[Qwen, list[Row]]) -> None:
    """Found whole, found up to the middle, and computed by another at the same time."""
    qwen, expected = rung
    engine = Engine(qwen, config=EngineConfig(page_size=4))
    before = [row(qwen, [*PROMPTS[2][:21], 1, 2, 3]), row(qwen, PROMPTS[1])]
    engine.run(before)
    rows = [row(qwen, prompt) for prompt in PROMPTS]
    again = [row(qwen, prompt) for prompt in PROMPTS]
    engine.run([*rows, *again])
    assert rows[2].num_cached == 20
    assert again[2].num_cached == 32
    assert_equal([*rows, *again], [*expected, *expected])


def test_preempted_and_computed_again_it_gives_the_same(rung: tuple[Qwen, list[Row]]) -> None:
    qwen, expected = rung
    for caching in (True, False):
        config = EngineConfig(cache_tokens=80, page_size=4, step_tokens=24, prefix_caching=caching)
        engine = Engine(qwen, config=config)
        rows, again = ([row(qwen, prompt) for prompt in PROMPTS] for _ in range(2))
        engine.run([*rows, *again])
        assert engine.statistics().preemptions > 0
        assert_equal([*rows, *again], [*expected, *expected])


class Oracle:
    """Guesses the tokens that will come, every third of them wrong."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.done = tokens, 0

    def push(self, token: int) -> None:
        self.done += 1

    def draft(self, limit: int) -> list[int]:
        places = range(self.done, min(self.done + limit, STEPS))
        return [(self.tokens[at] + (at % 3 == 2)) % 256 for at in places]


def test_with_tokens_drafted_ahead_it_gives_the_same_in_fewer_steps(rung: tuple[Qwen, list[Row]]) -> None:
    qwen, expected = rung
    engine = Engine(qwen, config=EngineConfig(speculative=7, page_size=4))
    rows = [row(qwen, prompt) for prompt in PROMPTS]
    for one, answer in zip(rows, expected, strict=True):
        one.lookup = Oracle(answer.output)  # type: ignore[assignment]
    engine.run([*rows, *strangers(qwen, 3)])
    assert_equal(rows, expected)
    assert engine.statistics().steps < STEPS
    assert 0 < engine.statistics().accepted_tokens < engine.statistics().drafted_tokens
