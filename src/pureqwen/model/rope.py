"""Rotary position embedding: a position is an angle, so that a product of query and key sees only distances.

Su et al. 2021, "RoFormer", section 3.2.2; Peng et al. 2023, "YaRN", sections 3.2 and 3.4.

Dimension i of a head is paired with dimension i + Dh/2 (the half-split layout; the paper pairs neighbours),
and the pair is turned by the angle  position * theta^(-2i/Dh):

        first half          second half
    [ x0 x1 ... x63 | x64 x65 ... x127 ]         x0, x64 turn fast;   x63, x127 once in theta * 2 pi
       `---- a pair ---'

The angles are computed from the positions at each forward, in float32, and never kept in the model: there is
nothing to load, nothing to cast by accident, nothing to outgrow.
"""

import math

import torch
from torch import Tensor

from pureqwen.config import ModelConfig, RopeScaling


class Rope:
    """Positions to (cos, sin): the angles by which `rotate` turns queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        self.head_dim = config.head_dim
        self.theta = config.rope_theta
        self.scaling = config.rope_scaling

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Positions (...) to cos and sin (..., 1, Dh/2) in `dtype`; the 1 stands for the heads."""
        return self.angles(positions, self.frequencies(positions.device), dtype)

    def angles(self, positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The same with the `frequencies` (Dh/2,) at hand: they are the same at every step of a text."""
        angles = positions.float()[..., None, None] * frequencies  # (..., 1, Dh/2)
        cos, sin = angles.cos(), angles.sin()
        if self.scaling is not None:
            scale = attention_factor(self.scaling)
            cos, sin = cos * scale, sin * scale
        return cos.to(dtype), sin.to(dtype)

    def frequencies(self, device: torch.device) -> Tensor:
        """The angle per position of each pair of dimensions: (Dh/2,), float32."""
        exponents = torch.arange(0, self.head_dim, 2, device=device).float() / self.head_dim
        wavelengths = self.theta**exponents  # positions per radian
        frequencies = 1.0 / wavelengths
        if self.scaling is None:
            return frequencies
        # YaRN: pairs that turn many times within the original context keep their frequency (they tell
        # neighbours apart); pairs that do not even turn once are slowed by `factor` (their angles stay within
        # what training saw); a ramp joins the two.
        slowed = 1.0 / (self.scaling.factor * wavelengths)
        low, high = ramp(self.scaling, self.head_dim, self.theta)
        pair = torch.arange(self.head_dim // 2, device=device).float()
        keep = 1.0 - ((pair - low) / (high - low)).clamp(0, 1)
        return slowed * (1.0 - keep) + frequencies * keep


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + Dh/2) of x (..., heads, Dh) by its angle: the rotation matrix, written out."""
    cos, sin = angles
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attention_factor(scaling: RopeScaling) -> float:
    """By how much YaRN stretches queries and keys, so that attention over a longer context stays as sharp."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def stretch(mscale: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * mscale * math.log(scaling.factor) + 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return stretch(scaling.mscale) / stretch(scaling.mscale_all_dim)
    return stretch(1.0)


def ramp(scaling: RopeScaling, head_dim: int, theta: float) -> tuple[float, float]:
    """The pairs between which YaRN goes over from keeping a frequency to slowing it."""

    def pair_that_turns(times: float) -> float:
        period = scaling.original_max_position_embeddings / (times * 2 * math.pi)
        return head_dim * math.log(period) / (2 * math.log(theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high if high != low else high + 0.001  # a ramp of no length would divide by zero
