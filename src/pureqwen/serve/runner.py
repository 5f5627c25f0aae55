"""The runner: computes what the scheduler planned, one forward for all of it.

    plan      [ a ] [ b d d ] [ e e e e e e ]       chunks of requests: a and b write (b a draft too), e reads
    ids       a b d d e e e e e e                   packed into one line of T tokens
    logits    a b d d           .                   (sum of keep, V): where a next token can be chosen

It decides nothing: which tokens, and in which pages, stands in the plan.
"""

from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from pureqwen.cache import PagedCache, bytes_per_token
from pureqwen.cache.static import FEW
from pureqwen.config import EngineConfig
from pureqwen.generate import Row
from pureqwen.generate.loop import Piece
from pureqwen.memory import main_memory
from pureqwen.model import Qwen3
from pureqwen.qwen import Qwen
from pureqwen.rewrite import eager
from pureqwen.serve.decoding import Decodings
from pureqwen.serve.scheduler import Chunk, Plan

SHARE = 0.5  # of the free memory that the cache takes, if it is not told how much
USUAL = 32 * 1024  # tokens of a cache that is not told how many


class Runner:
    """A model, and the cache in whose pages the keys and values of all requests lie."""

    def __init__(self, model: Qwen3, cache: PagedCache) -> None:
        self.model, self.cache = model, cache
        self.device = model.model.norm.weight.device
        self.decoding = Decodings(model, cache) if self.device.type == "cuda" and not cache.apart else None

    @torch.inference_mode()
    def __call__(self, plan: Plan) -> list[tuple[Chunk, Tensor]]:
        """Compute a plan; each of its chunks with the logits (keep, V) behind its last `keep` tokens."""
        chunks = sorted(plan.chunks, key=lambda chunk: len(chunk.tokens) > FEW)  # as the cache wants them
        rows = [(chunk.request.pages, chunk.start, len(chunk.tokens)) for chunk in chunks]
        decodes = all(len(chunk.tokens) == chunk.keep == 1 for chunk in chunks)
        if self.decoding and any(chunk.start < chunk.request.row.num_prompt for chunk in chunks):
            self.decoding.look()
        if self.decoding and decodes and self.decoding.take(rows):
            with eager(self.model):  # each step has another shape
                logits = self.decoding([chunk.tokens[0] for chunk in chunks], rows)
            return list(zip(chunks, torch.split(logits, 1), strict=True))
        positions = self.cache.begin(rows, alone=self.decoding is not None and self.cache.uneven(rows))
        ids = torch.tensor([token for chunk in chunks for token in chunk.tokens], device=self.device)  # (T,)
        ends = accumulate(len(chunk.tokens) for chunk in chunks)
        places = [p for chunk, end in zip(chunks, ends, strict=True) for p in range(end - chunk.keep, end)]
        keep = torch.tensor(places, dtype=torch.long, device=self.device)
        with eager(self.model):
            logits = self.model(ids, positions, self.cache.attends, keep)  # (sum of keep, V)
        return list(zip(chunks, torch.split(logits, [chunk.keep for chunk in chunks]), strict=True))


def advance(chunk: Chunk, logits: Tensor) -> Iterator[tuple[Row, Tensor]]:
    """Take note of a chunk that was computed: (row, logits) for each token that can be chosen now."""
    drafted = list(chunk.tokens[len(chunk.tokens) - chunk.num_drafted :])
    piece = Piece(chunk.request.row, chunk.start, drafted, list(chunk.tokens), chunk.keep)
    return piece.commit(logits)


def make_cache(qwen: Qwen, config: EngineConfig) -> PagedCache:
    """A cache of so many tokens as the settings say, or as fit, but then one context at least.

    Raises ValueError where it needs more memory than is free: the system may give it all the same, and kill
    the process once it is full.
    """
    free, each = free_bytes(qwen.device), bytes_per_token(qwen.config, qwen.dtype)
    usual = max(qwen.context, min(USUAL, int(SHARE * free) // each))
    tokens = usual if config.cache_tokens is None else config.cache_tokens
    if tokens * each > free:
        smaller = "" if config.cache_tokens else ", or load the model with a smaller context (--context)"
        raise ValueError(
            f"a cache of {tokens} tokens takes {tokens * each} bytes and {free} are free, room for "
            f"{free // each} tokens: give fewer cache_tokens (--cache-tokens){smaller}"
        )
    large = qwen.device.type == "cuda" and qwen.dtype == torch.bfloat16
    size = config.page_size or (256 if large else 16)
    return PagedCache(
        qwen.config,
        num_pages=-(-tokens // size),
        page_size=size,
        dtype=qwen.dtype,
        device=qwen.device,
        apart=config.deterministic,
    )


def free_bytes(device: torch.device) -> int:
    """Memory that is free where the cache is to lie."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else main_memory().free
