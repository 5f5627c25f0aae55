"""The static cache: each row of a batch owns one stretch of memory per layer; position p lives in slot p.

    row 0   [ k0 k1 k2 k3 k4 k5 .  .  .  . | x ]        C slots, and one to throw things into
    row 1   [ k0 k1 k2 .  .  .  .  .  .  . | x ]

A token may look at the slots up to its own position: that one rule is causality, the padding mask and the
fence against what an earlier text left in the slots behind. A batch is computed as a rectangle (B, S); where
a row has fewer than S tokens to compute, the filler's keys go to the last slot, which nobody looks at.

The memory doubles when it is full, up to `limit` tokens. Kwon et al. 2023 ("PagedAttention") show what is
lost by one stretch per row when many rows share a machine; for one conversation nothing is.
"""

import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pureqwen import kernels
from pureqwen.cache.memory import zeros
from pureqwen.config import ModelConfig

# Queries of a row that are attended to one by one, natively too; for more, products of blocks are faster.
FEW = 4
BLOCK = 128  # queries of many that are attended to together
SMALLEST = 256  # slots of a fresh cache
GRANULE = 64  # attention reads the used slots, rounded up to so many


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """What one token's keys and values take, over all layers, in bytes."""
    heads = config.num_hidden_layers * config.num_key_value_heads
    return 2 * heads * config.head_dim * dtype.itemsize


class StaticAttend(kernels.InPlace):
    """One layer's attention over the cache: writes k and v into their slots, then reads the row's.

    The G query heads that share a key/value head are folded into the sequence, (B, S, H, Dh) -> (B, Hkv, S*G,
    Dh): each key is then read once and not G times.
    """

    ALIKE = True
    k: Tensor  # (B, C + 1, Hkv, Dh): this layer's own
    v: Tensor
    rows: Tensor  # (B, 1): the step's, the same for every layer: the row that each token belongs to,
    positions: Tensor  # (B, S): where it stands, which is the slot of its key and value,
    slots: Tensor  # (B*S,): where each token's key and value go, each row of the cache being one page,
    pages: Tensor  # (B, 1), starts (B + 1,), lengths (B,): the rows as `kernels.Table` has them
    starts: Tensor
    lengths: Tensor
    lazy_mask: "Tensor | LazyMask"

    @property
    def mask(self) -> Tensor:
        """The step's, (B, 1, S*G, used): 0 where its queries may look, -inf where not."""
        lazy_mask = self.lazy_mask
        return lazy_mask if isinstance(lazy_mask, Tensor) else lazy_mask()

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        self.lazy_mask = mask

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.in_place(q):
            kernels.store_pages(k.flatten(0, 1), v.flatten(0, 1), self.k, self.v, self.slots)
            table = kernels.Table(self.pages, self.starts, self.lengths)
            return kernels.paged_attention(q.flatten(0, 1), self.k, self.v, table).view(q.shape)
        self.k[self.rows, self.positions] = k
        self.v[self.rows, self.positions] = v
        B, S, H, Dh = q.shape
        Hkv = k.shape[-2]
        folded = q.view(B, S, Hkv, H // Hkv, Dh).transpose(1, 2).reshape(B, Hkv, -1, Dh)  # (B, Hkv, S*G, Dh)
        used = self.mask.shape[-1]  # a shape, not a number of ours: nothing to recompile for
        keys, values = (x[:, :used].transpose(1, 2) for x in (self.k, self.v))  # (B, Hkv, used, Dh)
        sees, o = self.sees(), []
        for start, end, reach in self.blocks(q):
            mine = slice(start * (H // Hkv), end * (H // Hkv))
            mask = sees if end - start == S else sees[:, :, mine, :reach]
            some = folded[:, :, mine], keys[:, :, :reach], values[:, :, :reach]
            o.append(F.scaled_dot_product_attention(*some, attn_mask=mask))
        whole = torch.cat(o, dim=2) if len(o) > 1 else o[0]
        return whole.view(B, Hkv, S, H // Hkv, Dh).transpose(1, 2).reshape(B, S, H, Dh)

    def blocks(self, q: Tensor) -> list[tuple[int, int, int]]:
        """The queries q (B, S, H, Dh) in blocks from start to end, and how far each reaches: what is behind
        is hidden from all of it, and needs no product. A graph, a GPU and a mask of one's own have one block.
        """
        S, used = q.shape[1], self.mask.shape[-1]
        causal = type(self).sees is StaticAttend.sees
        if torch.compiler.is_compiling() or q.device.type != "cpu" or S <= BLOCK or not causal:
            return [(0, S, used)]
        before = int(self.lengths.max()) - S
        starts = range(0, S, BLOCK)
        return [(at, min(at + BLOCK, S), min(before + at + BLOCK, used)) for at in starts]

    def in_place(self, x: Tensor) -> bool:
        """Whether native code attends to tokens x (B, S, ...), which see all that stands before: a few, or as
        many as they be.
        """
        whole = type(self).sees is StaticAttend.sees and self.k.shape[-1] % kernels.LINE == 0
        if not whole or torch.compiler.is_compiling() or not kernels.runs(x):
            return False
        return x.shape[1] <= FEW or kernels.attends_blocks(x)

    def place(self, x: Tensor) -> kernels.Place | None:
        """Where native code puts and finds the keys and values of x (B, S, D), if it can."""
        if type(self).__call__ is not StaticAttend.__call__ or not self.in_place(x):
            return None
        return kernels.Place(self.slots, kernels.Table(self.pages, self.starts, self.lengths))

    def sees(self) -> Tensor:
        """The mask of this layer: all of the step's. An attend of one's own narrows it."""
        return self.mask


def may_compile() -> bool:
    """Whether torch's compiler is loaded: then a layer may be a graph, which finds tensors and no more."""
    return "torch._dynamo" in sys.modules


class LazyMask:
    """A step's mask, made when the first layer asks for it; native attention never does."""

    def __init__(self, positions: Tensor, used: int, *, groups: int, dtype: torch.dtype) -> None:
        self.make = partial(mask_of, positions, used, groups=groups, dtype=dtype)
        self.made: Tensor | None = None

    def __call__(self) -> Tensor:
        if self.made is None:
            self.made = self.make()
        return self.made


def mask_of(positions: Tensor, used: int, *, groups: int, dtype: torch.dtype) -> Tensor:
    """Which of the first `used` slots the queries of each position (B, S) may read: (B, 1, S*G, used)."""
    hidden = torch.arange(used, device=positions.device) > positions[..., None]  # (B, S, used)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    mask.masked_fill_(hidden, float("-inf"))
    return mask.repeat_interleave(groups, dim=1)[:, None]


class StaticCache:
    """Keys and values of `batch` rows of at most `limit` tokens each."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch: int = 1,
        limit: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attends: Sequence[StaticAttend] | None = None,
    ) -> None:
        """attends: fresh ones of your own, one per layer. ValueError for another number of them."""
        self.limit = limit
        self.batch = batch
        self.capacity = 0
        self.shape: tuple[int, int] | None = None  # rows, and tokens of each, of the step that layers have
        self.groups = config.num_attention_heads // config.num_key_value_heads
        layers = config.num_hidden_layers
        self.attends = [StaticAttend() for _ in range(layers)] if attends is None else list(attends)
        if len({id(attend) for attend in self.attends}) != layers:  # each holds its layer's k and v
            raise ValueError(f"a model of {layers} layers needs as many attends, each of them another object")
        empty = torch.empty(batch, 1, config.num_key_value_heads, config.head_dim, dtype=dtype, device=device)
        for attend in self.attends:
            attend.k = attend.v = empty
        self.grow(min(SMALLEST, limit))

    def begin(self, rows: Sequence[tuple[int, int]]) -> Tensor:
        """Make ready for a forward that computes, for each row (tokens cached, tokens now), the next tokens.

        Returns the positions (B, S), S the most tokens of any row; shorter rows are filled up on the right.
        Raises ValueError when a row would outgrow `limit`.
        """
        assert len(rows) == self.batch
        end = max(cached + now for cached, now in rows)
        self.reserve(end)
        device = self.attends[0].k.device
        B, S, C = len(rows), max(now for _, now in rows), self.capacity
        places = [[*range(cached, cached + now), *[C] * (S - now)] for cached, now in rows]
        positions = torch.tensor(places, device=device)
        slots = [b * (C + 1) + place for b, row in enumerate(places) for place in row]
        lengths = torch.tensor([cached + S for cached, _ in rows], dtype=torch.int32)
        made = {"positions": positions, "slots": torch.tensor(slots), "lengths": lengths}
        shape, self.shape = self.shape, None  # of none, should this be broken off
        if shape != (B, S):
            pages = torch.arange(B, dtype=torch.int32)[:, None]
            starts = torch.arange(B + 1, dtype=torch.int32) * S
            made |= {"rows": pages.long(), "pages": pages, "starts": starts}
        mask = LazyMask(positions, self.reach(end), groups=self.groups, dtype=self.attends[0].k.dtype)
        if may_compile():
            made["lazy_mask"] = mask()
        else:
            for attend in self.attends:
                attend.lazy_mask = mask
        for name, value in made.items():
            self.share(name, value)
        self.shape = B, S
        return positions

    def reserve(self, end: int) -> None:
        """Room for texts of `end` tokens. ValueError when that is more than `limit`."""
        if end > self.limit:
            raise ValueError(f"the text has {end} tokens, more than the context of {self.limit}")
        capacity = self.capacity
        while capacity < end:
            capacity = min(2 * capacity, self.limit)
        if capacity > self.capacity:
            self.grow(capacity)

    def reach(self, end: int, *, doubling: bool = False) -> int:
        """How many slots attention reads to see `end` tokens. Doubling: few numbers, where each is costly."""
        used = SMALLEST if doubling else -(-end // GRANULE) * GRANULE
        while used < end:
            used *= 2
        return min(used, self.capacity)

    def mask(self, positions: Tensor, used: int) -> Tensor:
        """Which of the first `used` slots the queries of each position may read: (B, 1, S*G, used)."""
        return mask_of(positions, used, groups=self.groups, dtype=self.attends[0].k.dtype)

    def share(self, name: str, value: Tensor) -> None:
        """Give every layer a tensor of the step; in place when shapes agree, since graphs hold addresses."""
        last = getattr(self.attends[0], name, None)
        if isinstance(last, Tensor) and last.shape == value.shape:
            last.copy_(value)
            return
        value = value.to(self.attends[0].k.device)
        for attend in self.attends:
            setattr(attend, name, value)

    def use(self, rows: Tensor, positions: Tensor, mask: Tensor) -> None:
        """Give every layer these very tensors as the step's: rows and positions (B, 1), one token each. A
        recorded step holds no number, and writes to no tensor that is not its own, which another might drop.
        """
        slots = (rows * (self.capacity + 1) + positions).flatten()
        starts = torch.arange(len(rows) + 1, dtype=torch.int32, device=rows.device)
        pages, lengths = rows.int(), (positions[:, 0] + 1).int()
        for attend in self.attends:
            attend.rows, attend.positions, attend.mask = rows, positions, mask
            attend.slots, attend.pages, attend.starts, attend.lengths = slots, pages, starts, lengths
        self.shape = None

    def grow(self, capacity: int) -> None:
        """Room for `capacity` tokens a row; layer by layer, so that little is held twice."""
        for attend in self.attends:
            attend.k = widen(attend.k, capacity + 1, kept=self.capacity)
            attend.v = widen(attend.v, capacity + 1, kept=self.capacity)
        self.capacity = capacity

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        index = torch.tensor(rows, device=self.attends[0].k.device)
        for attend in self.attends:
            attend.k, attend.v = attend.k[index], attend.v[index]
        self.batch = len(rows)


def widen(old: Tensor, slots: int, *, kept: int) -> Tensor:
    """`slots` slots, the first `kept` of them the old ones. Zeros: a masked slot must not hold a NaN."""
    new = zeros(old.shape[0], slots, *old.shape[2:], dtype=old.dtype, device=old.device)
    new[:, :kept] = old[:, :kept]
    return new
