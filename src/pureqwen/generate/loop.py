"""The loop that makes a language model write: compute the next token's logits, choose, append, again.

`greedy` is the whole idea in five lines. `decode` is the same loop for many rows with their own rules; where
the logits come from is its argument:

    Full(model)             computes every row's text anew for each token: the definition
    Cached(model, cache)    computes only what no cache holds: the same tokens, in a fraction of the time

Both show the rows' tokens in the same order, and a test holds them equal.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pureqwen.cache import StaticCache
from pureqwen.chat import Event
from pureqwen.generate.row import Row
from pureqwen.model import Qwen3

CHUNK = 512  # the most tokens of a prompt that one forward computes: bounds the mask and the activations

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
            logits = self.model(torch.tensor(row.ids, device=self.device), keep=-1)
            row.num_computed = len(row.ids)
            yield row, logits


class Cached:
    """Logits with a cache whose rows are these rows, in this order. A finished row is dropped from it."""

    def __init__(self, model: Qwen3, cache: StaticCache, rows: Sequence[Row], *, chunk: int = CHUNK) -> None:
        self.model, self.cache, self.rows, self.chunk = model, cache, list(rows), chunk
        self.device = model.model.norm.weight.device

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Tensor]]:
        """One forward: each row's next tokens, up to a chunk; logits for those that are then at their end."""
        if len(rows) < len(self.rows):
            self.cache.select([self.rows.index(row) for row in rows])
            self.rows = list(rows)
        pieces = [row.ids[row.num_computed : row.num_computed + self.chunk] for row in rows]
        ready = [n for n, row in enumerate(rows) if row.num_computed + len(pieces[n]) == len(row.ids)]
        logits = self.forward([row.num_computed for row in rows], pieces, ready)  # (ready, V)
        for row, piece in zip(rows, pieces, strict=True):
            row.num_computed += len(piece)
        yield from zip((rows[n] for n in ready), logits, strict=True)

    def forward(self, cached: Sequence[int], pieces: Sequence[Sequence[int]], ready: Sequence[int]) -> Tensor:
        """Compute each row's piece behind its `cached` tokens; logits of the rows that are `ready` by it."""
        positions = self.cache.begin(list(zip(cached, map(len, pieces), strict=True)))
        width = max(map(len, pieces))
        ids = torch.tensor(
            [[*piece, *[0] * (width - len(piece))] for piece in pieces], device=self.device
        )  # (B, S)
        ends = [len(pieces[n]) - 1 for n in ready]
        keep = torch.tensor([ready, ends], dtype=torch.long, device=self.device).unbind()
        logits: Tensor = self.model(ids, positions, self.cache.attends, keep)  # (ready, V)
        return logits
