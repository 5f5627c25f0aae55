"""Float products of few rows in native code: the same weights, read at the memory's speed.

A step of generation multiplies each weight once, so it takes as long as reading them. F.linear reads at half
of the memory's speed, and slower with two rows than with one. With many rows (a prompt) it stays F.linear,
but where native code has units for matrices; and while gradients are kept. A mixture's experts get fewer rows
each, so that in bfloat16 native code takes a prompt of theirs where it has the instruction, too.
"""

import torch
from torch import Tensor, nn

from pureqwen import kernels
from pureqwen.model import Experts


class NativeLinear(nn.Linear):
    """nn.Linear whose products of few rows are native."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or self.bias is not None:
            return super().forward(x)
        return kernels.linear(x, self.weight)


class NativeExperts(Experts):
    """Experts whose products are native, in one call where they are quicker than F.linear."""

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        if self.takes(x):
            return self.in_one_call(x, weights, chosen)
        return super().forward(x, weights, chosen)

    def takes(self, x: Tensor) -> bool:
        """Whether tokens x (T, D) go through their experts in one native call."""
        return kernels.takes_experts(x, self.gate_proj[0])

    def in_one_call(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        return kernels.experts(x, weights, chosen, (self.gate_proj, self.up_proj, self.down_proj))

    def one(self, e: int, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().one(e, x)
        inner = kernels.swiglu(kernels.linear(x, self.gate_proj[e]), kernels.linear(x, self.up_proj[e]))
        return kernels.linear(inner, self.down_proj[e])
