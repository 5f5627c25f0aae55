"""The ways in which a text is continued, in pureqwen and in transformers: with and without cache, as written
and compiled. bench_gpu.py measures them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pureqwen
from pureqwen import Qwen3
from pureqwen.cache import StaticCache
from pureqwen.generate import Cached, Stepped
from pureqwen.rewrite import compiled_blocks

# Texts (B lists of ids, all of one length) to the logits (B, V) of the token that follows each; and what
# makes such a one for texts that begin.
Logits = Callable[[list[list[int]]], Tensor]
Begin = Callable[[], Logits]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for: where, in which dtype, and how long prompt and answer are, in tokens."""

    device: torch.device
    dtype: torch.dtype
    prompt: int
    tokens: int

    @property
    def limit(self) -> int:
        """Slots of a cache."""
        return self.prompt + self.tokens


@dataclass(frozen=True, kw_only=True)
class Way:
    """Of how many texts, and how they are computed."""

    batch: int
    cached: bool
    compiled: bool

    def __str__(self) -> str:
        return f"{'KV cache' if self.cached else 'regular'}{', compiled' * self.compiled}"


def ways(*batches: int) -> list[Way]:
    """The rows of the table."""
    either = (False, True)
    return [Way(batch=b, cached=kv, compiled=c) for b in batches for kv in either for c in either]


# The two programs: a model from a folder, and a way of it.


def load_ours(folder: Path, plan: Plan, dtype: torch.dtype) -> Qwen3:
    return pureqwen.load(folder, device=plan.device, dtype=dtype).model


@contextmanager
def ours(model: Qwen3, plan: Plan, way: Way) -> Iterator[Begin]:
    """Compiled, there is one graph for all lengths of a text; with a cache, the steps of `Stepped`."""

    def full(texts: list[list[int]]) -> Tensor:
        return model(torch.tensor(texts, device=plan.device), keep=(slice(None), -1))

    def begin() -> Logits:
        if not way.cached:
            return full
        dtype = model.model.norm.weight.dtype
        cache = StaticCache(model.config, batch=way.batch, limit=plan.limit, dtype=dtype, device=plan.device)
        steps, done = (Stepped if way.compiled else Cached)(model, cache, ()), 0

        def stepwise(texts: list[list[int]]) -> Tensor:
            nonlocal done
            began, done = done, len(texts[0])
            return steps.forward([began] * way.batch, [text[began:] for text in texts], [1] * way.batch)

        return stepwise

    if way.compiled:
        with compiled_blocks(model, dynamic=None if way.cached else True):
            yield begin
    else:
        yield begin


def load_theirs(folder: Path, plan: Plan, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.to(plan.device).eval()


@contextmanager
def theirs(model: Any, plan: Plan, way: Way) -> Iterator[Begin]:
    """As transformers' generate does it: prompts as written, compiled steps over a static cache with CUDA
    graphs, all other steps over a dynamic one.
    """
    from transformers import DynamicCache, StaticCache

    run = model
    if way.compiled:
        how: dict[str, Any] = {"dynamic": True}
        if way.cached:
            how = {"fullgraph": True, "mode": "reduce-overhead"}
        run = torch.compile(model, **how)
    static = StaticCache(config=model.config, max_cache_len=plan.limit) if way.compiled else None

    @torch.inference_mode()
    def begin() -> Logits:
        if static is not None and static.layers[0].is_initialized:
            static.reset()  # the same memory: a graph knows addresses
        cache = DynamicCache(config=model.config) if static is None else static
        done = 0

        def logits(texts: list[list[int]]) -> Tensor:
            nonlocal done
            began, done = (done, len(texts[0])) if way.cached else (0, 0)
            ids = torch.tensor([text[began:] for text in texts], device=plan.device)
            kept: dict[str, Any] = {"past_key_values": cache} if way.cached else {"use_cache": False}
            torch.compiler.cudagraph_mark_step_begin()
            one = model if way.cached and not began else run
            out: Tensor = one(input_ids=ids, logits_to_keep=1, **kept).logits[:, -1].float()
            return out

        return logits

    yield begin


LOAD = {"pureqwen": load_ours, "transformers": load_theirs}
RUN = {"pureqwen": ours, "transformers": theirs}


@dataclass(frozen=True, kw_only=True)
class Written:
    """What came: the texts, the seconds of each step, and where it is wanted the logits (steps, B, V)."""

    texts: list[list[int]]
    seconds: list[float]
    logits: Tensor | None


@torch.inference_mode()
def write(
    run: Logits,
    texts: list[list[int]],
    count: int,
    *,
    like: list[list[int]] | None = None,
    keep: bool = False,
) -> Written:
    """Continue the texts by their likeliest tokens, or as others, `like`, were continued."""
    texts, seconds, kept = [list(text) for text in texts], [], []
    for _ in range(count):
        began = time.perf_counter()
        logits = run(texts)
        best = logits.argmax(-1).tolist()  # waits for the device
        seconds.append(time.perf_counter() - began)
        if keep:
            kept.append(logits.clone())
        for text, token, other in zip(texts, best, like or [None] * len(texts), strict=True):
            text.append(token if other is None else other[len(text)])
    return Written(texts=texts, seconds=seconds, logits=torch.stack(kept) if keep else None)
