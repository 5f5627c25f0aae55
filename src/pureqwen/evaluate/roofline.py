"""The roofline: the least time that a forward can take on a machine, from its bytes and its operations.

    operations/s                 _________________ peak of the matrix products
                             _--'
                         _--'        what a forward reaches lies below both lines; which of them is the
                     _--'            nearer one says what it waits for
                 _--'  bandwidth of the memory
               operations per byte

A forward can't be quicker than reading what it must read once, nor than its multiply-adds at the peak: the
longer of the two is its floor, and floor over measured time its share of the limit. Bytes: the weights that
its tokens meet, the keys and values of the tokens that it looks back at, and those that it adds. Operations:
those of the ledger, the head's once per row. Activations, norms and softmax are left out, so that the floor
can't be reached quite.

Williams et al. 2009, "Roofline: an insightful visual performance model for multicore architectures".
No torch is imported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from pureqwen.explain import Ledger, Part

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a forward can't do without: operations, and bytes read or written."""

    flops: int
    num_bytes: int

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.num_bytes


@dataclass(frozen=True, kw_only=True)
class Roof:
    """A machine's two limits: bandwidth in bytes/s, peak in operations/s."""

    bandwidth: float
    peak: float

    @property
    def ridge(self) -> float:
        """The operations per byte at which the lines meet."""
        return self.peak / self.bandwidth

    def reach(self, intensity: float) -> float:
        """Most operations/s at so many operations per byte."""
        return min(self.peak, intensity * self.bandwidth)

    def floor(self, work: Work) -> float:
        """The least seconds."""
        return max(work.num_bytes / self.bandwidth, work.flops / self.peak)

    def bound(self, work: Work) -> str:
        """Which limit is the nearer one: "memory" or "products"."""
        return "memory" if work.intensity < self.ridge else "products"


def work_of(counted: Ledger, rows: Sequence[tuple[int, int]]) -> Work:
    """Of a forward that computes, for each row (tokens cached, tokens now), the next tokens, and the logits
    of each row's last.
    """
    num_tokens = sum(now for _, now in rows)
    head = sum(part.flops for part in counted.parts if part.path == HEAD)
    pairs = sum(now * cached + now * (now + 1) // 2 for cached, now in rows)  # a token sees itself, too
    flops = num_tokens * (counted.flops - head) + len(rows) * head + pairs * counted.attention_flops
    cache = counted.cache_bytes * sum(cached + now for cached, now in rows)
    return Work(flops=flops, num_bytes=round(sum(read(part, num_tokens) for part in counted.parts)) + cache)


def read(part: Part, num_tokens: int) -> float:
    """Bytes of a kind of tensor that `num_tokens` tokens meet, each tensor counted once.

    Of the embedding a row each. Of E experts, K chosen by each token: E (1 - (1 - K/E)^tokens), what a router
    without favourites hits on average; a real one hits fewer.
    """
    if part.path == EMBEDDING:
        return num_tokens * part.shape[-1] * part.bits / 8
    met = part.count * (1 - (1 - part.active / part.count) ** num_tokens)
    return met * prod(part.shape) * part.bits / 8


def roof_of(bandwidth: float, peaks: Mapping[str, float], *, dtype: str, bits: float) -> tuple[Roof, str]:
    """The roof over a model's products, and the dtype of its flat part. bits: the fewest of a weight, with
    its share of a scale.

    That is the quickest kind of product which its weights allow: their own dtype's; float32's, which holds
    all others; 8-bit ones where weights have 8 bits or fewer, and 4-bit ones where they have 4.
    """
    allowed = [dtype, "float32", *(f"int{n}" for n in (8, 4) if bits < 2 * n)]
    best = max((name for name in allowed if name in peaks), key=lambda name: peaks[name])
    return Roof(bandwidth=bandwidth, peak=peaks[best]), best
