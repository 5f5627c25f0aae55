"""How fast a prompt is read and an answer is written.

It is the loop that answers everyone, with random ids in and greedy tokens out; the choice of a token and the
reading of the answer are included.

    prompt and answer    a row: the prompt computed, then the answer token by token
    batch                several rows, token by token, all in one forward
    long                 a row behind thousands of tokens

Where the prompt is not what is measured, it is not computed: the cache is filled with random keys and values,
which cost a step what real ones do. (Zeros that nobody wrote would not: they are no memory yet.)
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from pureqwen.cache import StaticCache
from pureqwen.config import SamplingParams
from pureqwen.generate import decode
from pureqwen.qwen import Qwen

T = TypeVar("T")
LEAST = 4  # tokens of context: a prompt, a step that warms up, and two that are measured


@dataclass(frozen=True)
class Sample:
    """Seconds, one number for each run."""

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured: tokens, rows, runs. patience: after so many seconds two runs are enough."""

    prompt: int = 512
    answer: int = 32
    batch: int = 8
    batch_prompt: int = 128
    long: int = 16_384
    start_prompt: int = 32
    runs: int = 7
    starts: int = 5
    patience: float = 60
    buffer: int = 1 << 30  # bytes that are read for the bandwidth

    @classmethod
    def quick(cls) -> "Plan":
        """Under 3 minutes for a model of 0.6B parameters on two slow cores."""
        return cls(answer=16, runs=3, starts=2, patience=8, buffer=1 << 28)

    def clipped(self, context: int, *, room: int) -> "Plan":
        """For a model of that context, on a machine with room for `room` cached tokens.

        Raises ValueError for a context in which there is nothing to measure.
        """
        if context < LEAST:
            raise ValueError(f"a context of {context} tokens is too short to measure: it takes {LEAST}")
        answer = min(self.answer, (context - 2) // 2)
        most = context - answer - 2  # a token to begin with, and the first one of the answer
        return replace(
            self,
            answer=answer,
            prompt=min(self.prompt, most),
            batch_prompt=min(self.batch_prompt, most),
            long=max(1, min(self.long, most, room)),
            start_prompt=min(self.start_prompt, most),
        )


def prompt_and_answer(qwen: Qwen, plan: Plan) -> tuple[Sample, Sample]:
    """Seconds of a prompt, to its first token; and of a step behind it."""
    cache = new_cache(qwen, batch=1, limit=plan.prompt + plan.answer + 1)

    def run() -> tuple[float, float]:
        first, *steps = stamped(qwen, cache, now=plan.prompt, steps=plan.answer)
        return first, sum(steps) / len(steps)

    prompts, answers = zip(*repeated(run, plan), strict=True)
    return Sample(prompts), Sample(answers)


def steps_behind(qwen: Qwen, plan: Plan, *, batch: int, cached: int) -> Sample:
    """Seconds of a step of `batch` rows that have `cached` tokens each."""
    cache = filled_cache(qwen, batch=batch, cached=cached, limit=cached + plan.answer + 1)

    def run() -> float:
        _, *steps = stamped(qwen, cache, batch=batch, cached=cached, steps=plan.answer)
        return sum(steps) / len(steps)

    return Sample(tuple(repeated(run, plan)))


def repeated(run: Callable[[], T], plan: Plan) -> list[T]:
    """What the runs give; the first, which warms up, left out."""
    run()
    started, found = time.perf_counter(), [run()]
    while len(found) < plan.runs and (len(found) < 2 or time.perf_counter() - started < plan.patience):
        found.append(run())
    return found


def new_cache(qwen: Qwen, *, batch: int, limit: int) -> StaticCache:
    """As the model's own answers have it."""
    attends = qwen.attends and qwen.attends()
    return StaticCache(
        qwen.config, batch=batch, limit=limit, dtype=qwen.dtype, device=qwen.device, attends=attends
    )


@torch.inference_mode()
def filled_cache(qwen: Qwen, *, batch: int, cached: int, limit: int) -> StaticCache:
    """One with `cached` random tokens in each row, which no model has computed."""
    cache = new_cache(qwen, batch=batch, limit=limit)
    cache.begin([(cached, limit - cached)] * batch)  # which makes room
    noise = torch.randn_like(cache.attends[0].k)
    for attend in cache.attends:
        attend.k.copy_(noise)
        attend.v.copy_(noise)
    return cache


def stamped(
    qwen: Qwen, cache: StaticCache, *, batch: int = 1, cached: int = 0, now: int = 1, steps: int
) -> list[float]:
    """Seconds of the forward that computes `now` tokens behind `cached` ones, then of each of the steps."""
    last, times = time.perf_counter(), []
    for _ in forwards(qwen, cache, batch=batch, cached=cached, now=now, steps=steps):
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
    return times


def forwards(
    qwen: Qwen, cache: StaticCache, *, batch: int = 1, cached: int = 0, now: int = 1, steps: int
) -> Iterator[None]:
    """The same, a forward at a time. Each ends with the choice of its tokens, which waits for the device."""
    params = SamplingParams(temperature=0, max_tokens=steps + 1, ignore_eos=True)
    ids = torch.randint(0, qwen.config.vocab_size, (batch, cached + now)).tolist()
    rows = [qwen.intake.text(row, params) for row in ids]
    for row in rows:
        row.reuse(cached)
    for place, _ in enumerate(decode(rows, qwen._logits(cache, rows)), start=1):
        if place % batch == 0:
            yield
