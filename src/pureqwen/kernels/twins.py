"""The products of ops.cpp in PyTorch: what they are defined by, and what runs where there is no native code.

    q, a = whole(x)              x = a q, row by row: q from -127 to 127, a = largest |x| / 127
    linear_int8                  a s[n] sum_k q w: the sum is exact, so both give the same bits
    linear_int4                  a sum_k q (s w): the same up to the order of adding floats

Weights of 4 bits lie as compressed-tensors packs them: eight to an int32, the first in its lowest bits, each
plus 8. On a little-endian machine that is two to a byte, the even one in the lower half.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 256  # rows of weights that are floats at a time
EXACT = 1024  # columns: 128 * 127 * 1024 < 2^24


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (M, K) by weight (N, K): (M, N)."""
    return F.linear(x, weight.to(x.dtype))


def linear_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x (M, K) by int8 weight (N, K) with a scale for each row of it, (N, 1): (M, N) in x's dtype."""
    q, a = whole(x)
    return (exact(q, weight).float() * a * scale.float().view(1, -1)).to(x.dtype)


def exact(q: Tensor, weight: Tensor) -> Tensor:
    """The product of whole numbers, q (M, K) int8 by weight (N, K) int8: (M, N) int32."""
    if len(q) and q.device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability():
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


def linear_int4(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """x (M, K) by packed weight (N, K/8), a scale for each group, (N, K/G): (M, N) in x's dtype."""
    q, a = whole(x)
    wide, parts = q.float(), []
    for rows in range(
        0, len(packed), TILE
    ):  # a tile at a time: all as floats would be eight times the memory
        weight = unpack(packed[rows : rows + TILE]).float()
        groups = scale[rows : rows + TILE].float()
        weight = weight.view(*groups.shape, -1) * groups[..., None]
        parts.append(F.linear(wide, weight.flatten(-2)))
    return (torch.cat(parts, dim=-1) * a).to(x.dtype)


def whole(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, K) as int8 q (M, K) and float32 scales (M, 1)."""
    wide = x.float()
    most = wide.abs().amax(dim=-1, keepdim=True)
    scale = torch.where(most == 0, 1.0, most / 127)  # a NaN stays one
    return (wide / scale).round().to(torch.int8), scale


def pack(weight: Tensor) -> Tensor:
    """int8 (N, K) from -8 to 7 to int32 (N, K/8)."""
    nibbles = (weight + 8).to(torch.uint8).view(len(weight), -1, 2)
    return (nibbles[..., 0] | nibbles[..., 1] << 4).view(torch.int32)


def unpack(packed: Tensor) -> Tensor:
    """int32 (N, K/8) to int8 (N, K) from -8 to 7."""
    both = packed.contiguous().view(torch.uint8)
    return torch.stack((both & 15, both >> 4), dim=-1).flatten(-2).to(torch.int8) - 8
