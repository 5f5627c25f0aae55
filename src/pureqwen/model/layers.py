"""The two blocks that every position goes through alone: RMSNorm and the SwiGLU feed-forward network.

    RMSNorm(x) = x / sqrt(mean(x^2) + eps) * weight     Zhang & Sennrich 2019, "Root Mean Square Layer
                                                        Normalization", section 4
    MLP(x)     = down( silu(gate(x)) * up(x) )          Shazeer 2020, "GLU Variants Improve
                                                        Transformer", equation 6

Also here: `Pulled`, by which a module says that its parameters are not in the file under their own names.
It does no attention and knows no positions.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Scale each vector to root-mean-square 1, then stretch it by a learned weight per dimension.

    Shapes: (..., dim) -> (..., dim). LayerNorm without the mean and without the bias: GPT-2's norm centres
    the vector first; dropping that costs nothing in quality and saves a pass.
    """

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()  # the square of a bf16 number loses most of its digits
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        # Round first, then multiply: the order of the reference. F.rms_norm does it the other way round and
        # differs in a quarter of all bf16 elements.
        return self.weight * normed.to(x.dtype)


class MLP(nn.Module):
    """SwiGLU: a feed-forward network whose inner activations are gated by a second projection.

    Shapes: (..., D) -> (..., D), inside (..., F).
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = F.silu(self.gate_proj(x)) * self.up_proj(x)  # (..., F)
        out: Tensor = self.down_proj(inner)  # (..., D)
        return out


class Read(Protocol):
    """What a loader hands to `Pulled.fill`: access to the checkpoint's tensors by name."""

    def __call__(self, name: str, rows: slice | None = None) -> Tensor:
        """The tensor `name` (or some of its rows) as it lies in the file."""

    def empty(self, like: Tensor) -> Tensor:
        """Memory for the (meta) parameter `like`, in the dtype and on the device that are being loaded to."""

    def into(self, target: Tensor, name: str) -> None:
        """Copy the tensor `name` into `target`, converting its dtype; their shapes must agree."""


@runtime_checkable
class Pulled(Protocol):
    """A leaf module whose parameters are not simply the file's tensors of the same name."""

    def sources(self, path: str) -> list[str]:
        """The names of the file's tensors that make this module, which stands at `path` in the model."""

    def fill(self, path: str, read: Read) -> None:
        """Replace this module's (meta) parameters by real ones."""
