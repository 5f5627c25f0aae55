"""A model whose logits do not depend, to the bit, on what else is computed beside them.

    alone       [ a ]                               a sum of floats depends on its order, and the order on
    in a step   [ b b b a c c c c c c c ]           the code that was chosen for so many rows, and on where
                        ^ the same numbers, other   in them a row stands (He et al. 2025, "Defeating
                          last bits                 Nondeterminism in LLM Inference")

So every row must meet the same code, whatever its neighbours. Native products add each row in one order, so
they take all rows, and not only a few (of 4 bits as many as are added in one order); what stands between the
products is native too. Without native code the model is computed token by token but for attention, which is
slow: each token has the shapes of one alone.

Attention is the cache's affair: `PagedCache(apart=True)` attends to each token by itself. What is promised
holds on CPUs, for one machine and one number of threads, and while no gradients are kept. They are not the
bits of a model that was not rewritten.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pureqwen import kernels
from pureqwen.kernels import Whole
from pureqwen.model import Attend, Block, Experts, Qwen3
from pureqwen.model.moe import scattered
from pureqwen.model.rope import rotate
from pureqwen.rewrite.few import NativeLinear
from pureqwen.rewrite.fuse import FusedBlock
from pureqwen.rewrite.quantize import Int4Linear, QuantizedExperts
from pureqwen.rewrite.walk import replace

TOGETHER = 16  # rows of 4-bit products that native code adds in one order (products.cpp: FEW)

LINEARS = (
    "model.layers.*.self_attn.*_proj",
    "model.layers.*.mlp.*_proj",
    "model.layers.*.mlp.gate",
    "lm_head",
)
PARTS = (*LINEARS, "model.layers.*.mlp.experts", "model.layers.*.mlp.experts.*.*_proj")


def deterministic(model: Qwen3) -> Qwen3:
    """The loaded model with each row computed alike; parameters and their names are the very same.

    Raises ValueError for a model that is not on a CPU: elsewhere it was never shown to hold.
    """
    device = model.model.norm.weight.device
    if device.type != "cpu":
        raise ValueError(f"deterministic is for CPUs: this model is on {device}")
    for pattern in PARTS:
        try:
            replace(model, pattern, lambda _, old: _part(old))
        except ValueError:  # nothing of this kind: dense models have no experts
            continue
    return replace(model, "model.layers.*", lambda _, old: _block(old))


def by_row(run: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
    """`run` on each of `rows` (M, ...) alone, (1, ...), in memory of its own; what that gives (M, ...)."""
    M = len(rows[0])
    found = [run(*(x[n : n + 1].clone() for x in rows)) for n in range(M)]
    found = found or [run(*(x.new_zeros(1, *x.shape[1:]) for x in rows))]
    return tuple(torch.cat(parts)[:M] for parts in zip(*found, strict=True))


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., K) by weight (N, K): (..., N)."""
    rows = x.reshape(-1, x.shape[-1])
    if kernels.runs(rows) and rows.shape[1] % 32 == 0:
        y: Tensor = torch.ops.pureqwen.linear_alike(rows.contiguous(), weight)
    else:
        (y,) = by_row(lambda row: (F.linear(row, weight),), rows)
    return y.view(*x.shape[:-1], len(weight))


class RowLinear(nn.Linear):
    """nn.Linear of which each row is computed alike."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        y = product(x, self.weight)
        return y if self.bias is None else y + self.bias


class RowInt4(Int4Linear):
    """Int4Linear of few rows at a time: with many, native code adds in another order."""

    def forward(self, x: Tensor) -> Tensor:
        rows = kernels.quantize(x.reshape(-1, x.shape[-1]))
        return self.product(rows).view(*x.shape[:-1], len(self.weight_packed))

    def product(self, rows: Whole) -> Tensor:
        most = TOGETHER if kernels.runs(rows.like) else 1
        pieces = zip(torch.split(rows.q, most), torch.split(rows.scale, most), strict=True)
        return torch.cat([super(RowInt4, self).product(Whole(q, scale, rows.like)) for q, scale in pieces])


class RowExperts(Experts):
    """Experts whose rows are computed alike: how many an expert gets depends on the other tokens."""

    def one(self, e: int, x: Tensor) -> Tensor:
        inner = kernels.swiglu(product(x, self.gate_proj[e]), product(x, self.up_proj[e]))
        return product(inner, self.down_proj[e])


class RowInt4Experts(QuantizedExperts):
    """Experts of 4 bits: of so few tokens at once none of them gets many."""

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        if len(x) <= TOGETHER:
            return super().forward(x, weights, chosen)
        return scattered(x, weights, chosen, len(self), self.run)


class RowBlock(Block):
    """A `Block` of the same parts without native code: token by token, all but attention."""

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        for name, part in block.named_children():
            self.add_module(name, part)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x, angles, attend)
        rows = x.reshape(-1, x.shape[-1])  # (T, D)
        cos, sin = (part.expand(*x.shape[:-1], 1, -1).reshape(len(rows), 1, -1) for part in angles)
        q, k, v = by_row(self.before, rows, cos, sin)  # (T, H, Dh) and twice (T, Hkv, Dh)
        o = attend(*(part.view(*x.shape[:-1], *part.shape[1:]) for part in (q, k, v)))
        (y,) = by_row(self.after, rows, o.reshape(len(rows), -1))
        return y.view(x.shape)

    def before(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What attention is asked, of a token (1, D)."""
        attn, h = self.self_attn, self.input_layernorm(x)
        q, k, v = (
            proj(h).unflatten(-1, (-1, attn.head_dim)) for proj in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        return rotate(attn.q_norm(q), (cos, sin)), rotate(attn.k_norm(k), (cos, sin)), v

    def after(self, x: Tensor, o: Tensor) -> tuple[Tensor]:
        """The token (1, D) with what attention and feed-forward network add to it."""
        x = x + self.self_attn.o_proj(o)
        return (x + self.mlp(self.post_attention_layernorm(x)),)


def _part(old: nn.Module) -> nn.Module:
    kinds: dict[type[nn.Module], type[nn.Module]] = {
        nn.Linear: RowLinear,
        NativeLinear: RowLinear,
        Int4Linear: RowInt4,
    }
    if isinstance(old, Experts):
        return _as(RowExperts, old)
    if isinstance(old, QuantizedExperts) and isinstance(old[0].gate_proj, Int4Linear):
        return _as(RowInt4Experts, old)
    return _as(kinds[type(old)], old) if type(old) in kinds else old  # int8 sums are exact in any order


def _block(old: nn.Module) -> nn.Module:
    assert isinstance(old, Block)
    if kernels.runs(old.input_layernorm.weight):
        return old if isinstance(old, FusedBlock) else FusedBlock(old)
    return old if isinstance(old, RowBlock) else RowBlock(old)


def _as(kind: type[nn.Module], old: nn.Module) -> nn.Module:
    """A module of this kind with all that the old one has."""
    new = kind.__new__(kind)
    vars(new).update(vars(old))
    return new
