"""On CUDA: steps in which each request gets its next token, recorded once and replayed by one launch.

A recording (generate/stepped.py) has one shape. So a step is filled up with rows that nobody asked for, whose
only key goes to the scratch page, to 1, 2, 4, 8, ... rows, and its table to 2, 4, 8, ... pages for each.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pureqwen.cache import PagedCache
from pureqwen.cache.paged import Rows
from pureqwen.generate.stepped import Recording, listened_to
from pureqwen.model import Qwen3

MOST = 32  # recordings that are kept: those used last


class Decodings:
    """The recordings of a model over a cache, by rows and pages."""

    def __init__(self, model: Qwen3, cache: PagedCache) -> None:
        self.model, self.cache = model, cache
        self.pool = torch.cuda.graph_pool_handle()
        self.known: dict[tuple[int, int], Decoding] = {}
        self.weights: list[int] = []
        self.look()

    def look(self) -> None:
        """Is the model still the one that was recorded? To be called where a prompt is read: a recording
        knows the addresses of the weights, and calls no hook.
        """
        weights = [parameter.data_ptr() for parameter in self.model.parameters()]
        if weights != self.weights:
            self.known.clear()
            self.weights, self.able = weights, True
        self.heard = listened_to(self.model)

    def take(self, rows: Rows) -> bool:
        """Whether a step of these rows is to be computed here: nobody listens, the model needs no answer of
        the device's, and the longest row would not make all of them wide.
        """
        return self.able and not self.heard and not self.cache.uneven(rows)

    def __call__(self, ids: Sequence[int], rows: Rows) -> Tensor:
        """Logits (R, V) that follow the ids, one for each of R rows (pages, tokens cached, 1)."""
        pages = max(-(-(cached + now) // self.cache.page_size) for _, cached, now in rows)
        key = power_of_two(len(rows)), power_of_two(max(2, pages))
        found = self.known.pop(key, None) or Decoding(self.model, self.cache, *key, pool=self.pool)
        self.known[key] = found  # the last one
        if len(self.known) > MOST:
            del self.known[next(iter(self.known))]
        logits = found(ids, rows)
        if found.recording.alone is False:
            self.known.clear()
            self.able = False
        return logits


class Decoding:
    """One token for each of at most `size` rows, each of at most `width` pages."""

    def __init__(self, model: Qwen3, cache: PagedCache, size: int, width: int, *, pool: Any) -> None:
        self.model, self.cache, self.size, self.width = model, cache, size, width
        device = cache.attends[0].k.device
        self.inputs = torch.zeros(2, size, dtype=torch.long, device=device)  # ids and positions
        self.held: dict[str, Tensor] = {}
        self.recording = Recording(self.compute, device, pool=pool)

    def __call__(self, ids: Sequence[int], rows: Rows) -> Tensor:
        """Logits (R, V) of R rows; the next step may overwrite them."""
        more = self.size - len(rows)
        filler = ([self.cache.scratch], 0, 1)
        positions = self.cache.begin([*rows, *[filler] * more], width=self.width)
        self.hold()
        self.inputs[0].copy_(torch.tensor([*ids, *[0] * more]))
        self.inputs[1].copy_(positions)
        return self.recording()[: len(rows)]

    def hold(self) -> None:
        """The step's tensors stay where they were when it was recorded, whatever the steps between had."""
        for name in PagedCache.SHARED:
            now = getattr(self.cache.attends[0], name)
            held = self.held.setdefault(name, now)
            if held is not now:
                held.copy_(now)
                for attend in self.cache.attends:
                    setattr(attend, name, held)

    def compute(self) -> Tensor:
        ids, positions = self.inputs
        logits: Tensor = self.model(ids, positions, self.cache.attends)
        return logits


def power_of_two(number: int) -> int:
    """The least that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()
