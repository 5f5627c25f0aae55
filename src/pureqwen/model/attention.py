r"""Attention: each position asks (query) and mixes the values of the earlier positions whose keys answer.

    softmax( q k^T / sqrt(Dh) ) v                     Vaswani et al. 2017, section 3.2.1
    G query heads share one key/value head            Ainslie et al. 2023, "GQA", section 2.2
    RMSNorm over each head of q and k, before RoPE    Qwen3 Technical Report 2025, section 2, after Dehghani
                                                      et al. 2023; it replaces the QKV bias of Qwen2

    q heads   0 1   2 3   4 5   6 7          H = 8
               \|    \|    \|    \|          G = 2: two query heads read the same keys and values,
    kv heads    0     1     2     3          Hkv = 4   so the cache holds half of what H heads would need

`attend(q, k, v) -> o` is the one seam between this arithmetic and memory: whoever calls the model decides
whether keys and values are forgotten (`CausalAttend`), fenced by documents (`PackedAttend`) or kept
(pureqwen.cache).
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pureqwen.config import ModelConfig
from pureqwen.model.layers import RMSNorm
from pureqwen.model.rope import rotate

MIN_BLOCK, MAX_BLOCKS = 128, 8  # queries in a block of `PackedAttend`, and blocks


class Attend(Protocol):
    """What one layer's attention does with its queries, keys and values; one callable per layer.

    q (..., H, Dh); k and v (..., Hkv, Dh), k already rotated; returns o, shaped as q. Scale, causality and
    the keeping of k and v are its own affair. Its attributes are tensors only: a number that changes from
    step to step would make torch.compile build a new graph for each.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class CausalAttend:
    """Every position sees itself and what stands before it. Nothing is kept: the plain forward."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product(q, k, v, mask=None)


class PackedAttend:
    """Causal within each document: several documents packed into one row do not see one another."""

    def __init__(self, documents: Tensor) -> None:
        """`documents` (T,) or (B, T): for each token the number of its document."""
        same = documents[..., :, None] == documents[..., None, :]
        self.mask = (same & torch.ones_like(same).tril())[..., None, :, :]  # (..., 1, T, T)

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], *, device: torch.device | str = "cpu") -> "PackedAttend":
        """For one row (T,) of documents with these lengths, T their sum."""
        numbers = torch.arange(len(lengths), device=device)
        return cls(numbers.repeat_interleave(torch.tensor(lengths, device=device)))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """In blocks of queries: the keys behind a block are masked for all of it, and need no product."""
        length = q.shape[-3]
        size = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
        blocks = []
        for start in range(0, max(length, 1), size):
            end = min(start + size, length)
            mine, seen = q[..., start:end, :, :], slice(0, end)
            mask = self.mask[..., start:end, seen]
            blocks.append(scaled_dot_product(mine, k[..., seen, :, :], v[..., seen, :, :], mask=mask))
        return torch.cat(blocks, dim=-3)


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None) -> Tensor:
    """q (..., S, H, Dh) over k and v (..., T, Hkv, Dh): causal (S = T), or where `mask` (..., 1, S, T) is
    true.
    """
    batched = q.dim() > 3
    if not batched:  # the product wants a batch
        q, k, v, mask = q[None], k[None], v[None], None if mask is None else mask[None]
    q, k, v = (t.transpose(-3, -2) for t in (q, k, v))  # (B, H, S, Dh) and twice (B, Hkv, T, Dh)
    shared = q.shape[-3] != k.shape[-3]
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=shared)
    o = o.transpose(-3, -2)  # (B, S, H, Dh)
    return o if batched else o[0]


class Attention(nn.Module):
    """Grouped-query attention with QK-norm: (..., D) -> (..., D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, Dh, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.head_dim = Dh  # from the config: D / H would be wrong for 0.6B, 4B and 32B
        self.q_proj = nn.Linear(D, config.num_attention_heads * Dh, bias=bias)
        self.k_proj = nn.Linear(D, config.num_key_value_heads * Dh, bias=bias)
        self.v_proj = nn.Linear(D, config.num_key_value_heads * Dh, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * Dh, D, bias=bias)
        self.q_norm = RMSNorm(Dh, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(Dh, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        heads = (-1, self.head_dim)  # as many as the weights hold: a shard of the layer needs no other code
        q = self.q_norm(self.q_proj(x).unflatten(-1, heads))  # (..., H, Dh)
        k = self.k_norm(self.k_proj(x).unflatten(-1, heads))  # (..., Hkv, Dh)
        v = self.v_proj(x).unflatten(-1, heads)  # (..., Hkv, Dh)
        o = attend(rotate(q, angles), rotate(k, angles), v)  # (..., H, Dh)
        out: Tensor = self.o_proj(o.flatten(-2))  # (..., D)
        return out
