"""The loop that makes a language model write: compute the next token's logits, choose, append, again.

`greedy` is the whole idea in five lines. `decode` is the same loop for many rows with their own rules; where
the logits come from is its argument:

    Full(model)             computes every row's text anew for each token: the definition
    Cached(model, cache)    computes only what no cache holds: the same tokens, in a fraction of the time

Both show the rows' tokens in the same order, and a test holds them equal.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from pureqwen.cache import StaticCache
from pureqwen.chat import Event
from pureqwen.generate.row import Row
from pureqwen.model import Qwen3

CHUNK = 512  # the most tokens of a prompt that one forward computes: bounds the mask and the activations
SCORED = 64  # and of a prompt that is to be scored, each of whose tokens needs V logits

# Given the rows that are not finished, some of them with the logits (V,) of their next token.
Compute = Callable[[Sequence[Row]], Iterator[tuple[Row, Tensor]]]


@torch.inference_mode()
def greedy(model: Qwen3, ids: Tensor, *, max_tokens: int) -> Tensor:
    """Continue ids (S,) by the likeliest token, `max_tokens` times: no cache, no end."""
    for _ in range(max_tokens):
        logits = model(ids, keep=-1)  # (V,)
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)))
    return ids


def decode(rows: Sequence[Row], compute: Compute) -> Iterator[tuple[Row, list[Event]]]:
    """Run the rows until all are finished; yields, token by token, whose answer grew by what.

    Stopped early, by Ctrl-C or by closing this, the rows keep what they have: also what was held back.
    """
    for row in rows:
        row.start()
    try:
        while live := [row for row in rows if not row.finished]:
            for row, logits in compute(live):
                yield row, row.accept(logits)
    finally:
        for row in rows:
            row.reply.finish("interrupted")


class Full:
    """Logits without a cache."""

    def __init__(self, model: Qwen3) -> None:
        self.model = model
        self.device = model.model.norm.weight.device

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Tensor]]:
        for row in rows:
            scored = row.wants_prompt_logprobs and row.num_computed == 0
            ids = torch.tensor(row.ids, device=self.device)
            logits = self.model(ids, keep=slice(None) if scored else slice(-1, None))  # (S or 1, V)
            row.num_computed = len(row.ids)
            if scored:
                row.score_prompt(0, logits)
            yield row, logits[-1]


class Cached:
    """Logits with a cache whose rows are these rows, in this order. A finished row is dropped from it.

    speculative: the most tokens that are guessed for a row at a time (speculative.py), and computed along.
    """

    def __init__(
        self,
        model: Qwen3,
        cache: StaticCache,
        rows: Sequence[Row],
        *,
        chunk: int = CHUNK,
        speculative: int = 0,
    ) -> None:
        self.model, self.cache, self.rows, self.chunk = model, cache, list(rows), chunk
        self.speculative = speculative
        self.device = model.model.norm.weight.device

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Tensor]]:
        """One forward: each row's next tokens, up to a chunk; logits for those that are then at their end."""
        if len(rows) < len(self.rows):
            self.forget()
            self.cache.select([self.rows.index(row) for row in rows])
            self.rows = list(rows)
        pieces = [Piece.of(row, chunk=self.chunk, speculative=self.speculative) for row in rows]
        kept = [piece.kept for piece in pieces]
        logits = self.forward([piece.cached for piece in pieces], [piece.ids for piece in pieces], kept)
        for piece, end in zip(pieces, accumulate(kept), strict=True):
            yield from piece.commit(logits[end - piece.kept : end])

    def forget(self) -> None:
        """Hold nothing of the cache: its keys and values are made anew."""

    def forward(self, cached: Sequence[int], pieces: Sequence[Sequence[int]], kept: Sequence[int]) -> Tensor:
        """Compute each row's piece behind its `cached` tokens; logits of the last kept[n] places of piece n,
        those of all pieces behind each other: (sum of kept, V).
        """
        positions = self.cache.begin(list(zip(cached, map(len, pieces), strict=True)))
        width = max(map(len, pieces))
        ids = torch.tensor(
            [[*piece, *[0] * (width - len(piece))] for piece in pieces], device=self.device
        )  # (B, S)
        logits: Tensor = self.model(ids, positions, self.cache.attends, self.keep(pieces, kept))
        return logits  # (sum of kept, V)

    def keep(self, pieces: Sequence[Sequence[int]], kept: Sequence[int]) -> tuple[Any, Any]:
        """Which places (B, S) of the pieces have the logits that are wanted, as an index."""
        if max(map(len, pieces)) == min(kept) == 1:  # as in almost every step
            return slice(None), 0
        wanted = zip(pieces, kept, strict=True)
        places = [(n, len(p) - k + at) for n, (p, k) in enumerate(wanted) for at in range(k)]
        rows, columns = torch.tensor(places, dtype=torch.long, device=self.device).view(-1, 2).unbind(1)
        return rows, columns


@dataclass(frozen=True)
class Piece:
    """What one forward computes of one row.

    ids    [ p p p p | d d d ]     p the next of the row's ids, d a draft of what may follow them
    kept           ^   ^ ^ ^       logits: behind the row's last id and each drafted one, if it gets there;
           ^ ^ ^ ^                 of all of a prompt that is to be scored
    """

    row: Row
    cached: int  # of the row's ids, before
    draft: list[int]
    ids: list[int]
    kept: int  # the last so many places

    @classmethod
    def of(cls, row: Row, *, chunk: int, speculative: int = 0) -> "Piece":
        cached = row.num_computed
        scored = row.wants_prompt_logprobs and cached < row.num_prompt
        ids = row.ids[cached : cached + (min(chunk, SCORED) if scored else chunk)]
        ready = cached + len(ids) == len(row.ids)
        draft = row.draft(speculative) if ready and speculative else []
        kept = len(ids) if scored else int(ready)
        return cls(row, cached, draft, ids + draft, kept + len(draft))

    def commit(self, logits: Tensor) -> Iterator[tuple[Row, Tensor]]:
        """Take note of what was computed, logits (kept, V): (row, logits) for each token that can be chosen.

        The choice is made by who reads this; the draft counts as far as it agrees. Keys and values of the
        rest lie behind `num_computed`, where nobody looks and the next step writes.
        """
        row, count = self.row, len(self.ids) - len(self.draft)
        row.num_computed += count
        if row.wants_prompt_logprobs and self.cached < row.num_prompt:
            row.score_prompt(self.cached, logits[:count])
        if row.num_computed < len(row.ids):
            return
        for token, scores in zip([*self.draft, None], logits[-len(self.draft) - 1 :], strict=True):
            yield row, scores
            if row.finished or row.ids[-1] != token:
                return
            row.num_computed += 1
