"""The native operations in PyTorch: what they are defined by, and what runs without native code.

    q, a = whole(x)              x = a q, row by row: q from -127 to 127, a = largest |x| / 127
    product_int8                 a s[n] sum_k q w: the sum is exact, so both give the same bits
    scaled                       that scaling alone, of sums that another product made: native scale_sums
    product_int4                 a sum_k q (s w): the same up to the order of adding floats

Weights of 4 bits lie as compressed-tensors packs them: eight to an int32, the first in its lowest bits, each
plus 8. On a little-endian machine that is two to a byte, the even one in the lower half.
"""

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 256  # rows of weights that are floats at a time
WIDE_TILE = 1024  # of bfloat16 that are float32
EXACT = 1024  # columns: 128 * 127 * 1024 < 2^24


@cache
def fast_bfloat16() -> bool:
    """Whether the processor is of a kind on which bfloat16 products are not emulated number by number."""
    return "AVX2" not in torch.backends.cpu.get_cpu_capability()


@cache
def slower_bfloat16() -> bool:
    """Whether ours outrun PyTorch's with several rows, and in a mixture's experts with any number: with the
    instruction, without units for matrices.
    """
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (M, K) by weight (N, K): (M, N)."""
    emulated = x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu" and not fast_bfloat16()
    if emulated and len(x):  # a tile at a time in float32, which is quicker
        tiles = torch.split(weight, WIDE_TILE)
        return torch.cat([F.linear(x.float(), tile.float()).bfloat16() for tile in tiles], dim=-1)
    return F.linear(x, weight.to(x.dtype))


def product_int8(q: Tensor, a: Tensor, weight: Tensor, scale: Tensor, like: Tensor) -> Tensor:
    """q (M, K) with scales a (M, 1) by int8 weight (N, K) with a scale for each row of it, (N, 1): (M, N)."""
    return scaled(exact(q, weight), a, scale, like)


def scaled(sums: Tensor, a: Tensor, scale: Tensor, like: Tensor) -> Tensor:
    """Sums of whole numbers (M, N), int32, times scales of rows (M, 1) and weight rows (N, 1): (M, N)."""
    return (sums.float() * a * scale.float().view(1, -1)).to(like.dtype)


def exact(q: Tensor, weight: Tensor) -> Tensor:
    """The product of whole numbers, q (M, K) int8 by weight (N, K) int8: (M, N) int32."""
    if len(q) and q.device.type == "cpu" and fast_int8():
        return torch._int_mm(q, weight.t())
    # Other processors have no quick product of bytes, and on CUDA it takes only some shapes. A float32 holds
    # every whole number up to 2^24, so a sum over EXACT columns is exact in whatever order.
    wide, tiles = q.float(), []
    for rows in range(0, len(weight), TILE):
        tile = weight[rows : rows + TILE].float()
        parts = [
            F.linear(wide[:, k : k + EXACT], tile[:, k : k + EXACT]) for k in range(0, q.shape[1], EXACT)
        ]
        tiles.append(sum((part.to(torch.int32) for part in parts[1:]), parts[0].to(torch.int32)))
    return torch.cat(tiles, dim=-1)


@cache
def fast_int8() -> bool:
    """Whether PyTorch has quick products of bytes on this processor."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


@cache
def faster_int8() -> bool:
    """Whether those outrun ours with many rows: with units for matrices that ours don't use, or without the
    instruction for bytes.
    """
    return fast_int8() and (torch.cpu._is_amx_tile_supported() or not torch.cpu._is_vnni_supported())


def product_int4(q: Tensor, a: Tensor, packed: Tensor, scale: Tensor, like: Tensor) -> Tensor:
    """q (M, K) with scales a (M, 1) by packed weight (N, K/8), a scale for each group, (N, K/G): (M, N)."""
    wide, parts = q.float(), []
    # A tile at a time: all as floats would be eight times the memory.
    for rows in range(0, len(packed), TILE):
        weight = unpack(packed[rows : rows + TILE]).float()
        groups = scale[rows : rows + TILE].float()
        weight = weight.view(*groups.shape, -1) * groups[..., None]
        parts.append(F.linear(wide, weight.flatten(-2)))
    return (torch.cat(parts, dim=-1) * a).to(like.dtype)


def whole(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, K) as int8 q (M, K) and float32 scales (M, 1)."""
    wide = x.float()
    most = wide.abs().amax(dim=-1, keepdim=True)
    least = 127 * torch.finfo(torch.float32).tiny  # a smaller scale would lose its bits
    scale = torch.where(most < least, 1.0, most / 127)  # a NaN stays one
    return (wide / scale).round().to(torch.int8), scale


def pack(weight: Tensor) -> Tensor:
    """int8 (N, K) from -8 to 7 to int32 (N, K/8)."""
    nibbles = (weight + 8).to(torch.uint8).view(len(weight), -1, 2)
    return (nibbles[..., 0] | nibbles[..., 1] << 4).view(torch.int32)


def unpack(packed: Tensor) -> Tensor:
    """int32 (N, K/8) to int8 (N, K) from -8 to 7."""
    both = packed.contiguous().view(torch.uint8)
    return torch.stack((both & 15, both >> 4), dim=-1).flatten(-2).to(torch.int8) - 8


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """model.RMSNorm, of rows (M, K)."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def rms_norm_quantize(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of rows (M, K) as whole numbers."""
    return whole(rms_norm(x, weight, eps))


def route(
    x: Tensor, weight: Tensor, eps: float, router: Tensor, num_experts: int, sums_to_one: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows x (T, D) normed; model.MoE.route of them: weights and numbers (T, K) of K experts."""
    h = rms_norm(x, weight, eps)
    weights, chosen = linear(h, router).softmax(-1, dtype=torch.float32).topk(num_experts, dim=-1)
    if sums_to_one:
        weights = weights / weights.sum(-1, keepdim=True)
    return h, weights.to(x.dtype), chosen


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """The inner activations of model.MLP, (M, F)."""
    return F.silu(gate) * up


def swiglu_quantize(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The inner activations of model.MLP as whole numbers."""
    return whole(swiglu(gate, up))


def qk_norm_rope(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """x (T, H, Dh), cos and sin (T, Dh/2): model.Attention's norm over each head, then model.rope.rotate."""
    first, second = rms_norm(x, weight, eps).chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]  # (T, 1, Dh/2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def store_pages(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    """k and v (T, Hkv, Dh) into pages (P, page, Hkv, Dh) at slots (T,)."""
    k_pages.flatten(0, 1)[slots] = k
    v_pages.flatten(0, 1)[slots] = v


def paged_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, pages: Tensor, starts: Tensor, lengths: Tensor
) -> Tensor:
    """q (T, H, Dh) over pages (P, page, Hkv, Dh): row by row, the pages of each gathered to one text."""
    bounds, groups, out = starts.tolist(), q.shape[1] // k_pages.shape[2], torch.empty_like(q)
    for r, (begin, end) in enumerate(pairwise(bounds)):
        if begin == end:
            continue
        length = int(lengths[r])
        k, v = (x[pages[r].long()].flatten(0, 1)[:length].float() for x in (k_pages, v_pages))  # (n, Hkv, Dh)
        mine = (
            q[begin:end].float().view(end - begin, -1, groups, q.shape[-1]) / q.shape[-1] ** 0.5
        )  # (S, Hkv, G, Dh)
        scores = torch.einsum("shgd,nhd->hgsn", mine, k)
        places = torch.arange(length, device=q.device)
        seen = places <= places[length - (end - begin) :, None]
        shares = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out[begin:end] = torch.einsum("hgsn,nhd->shgd", shares, v).flatten(1, 2).to(q.dtype)
    return out
