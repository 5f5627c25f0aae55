"""Float products of few rows in native code: the same weights, read at the memory's speed.

A step of generation multiplies each weight once, so it takes as long as reading them. F.linear reads bfloat16
at half of the memory's speed where the processor has such products, and far slower where it has none. With
many rows (a prompt), or while gradients are kept, it stays F.linear. `pureqwen.load` does this for bfloat16
on processors that have no such products.
"""

import torch
from torch import Tensor, nn

from pureqwen import kernels
from pureqwen.model import Qwen3
from pureqwen.rewrite.walk import replace

PATTERNS = ("model.layers.*.self_attn.*_proj", "model.layers.*.mlp.*_proj", "lm_head")


class NativeLinear(nn.Linear):
    """nn.Linear whose products of few rows are native."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or self.bias is not None:
            return super().forward(x)
        return kernels.linear(x, self.weight)


def native_products(model: Qwen3) -> Qwen3:
    """The model with native products of few rows; parameters are the very same. A mixture's experts stay."""
    for pattern in PATTERNS:
        try:
            replace(model, pattern, _native)
        except ValueError:  # nothing of this kind: a mixture of experts has no mlp.*_proj
            continue
    return model


def _native(path: str, old: nn.Module) -> nn.Module:
    if type(old) is not nn.Linear:  # quantised, or one's own
        return old
    with torch.device("meta"):
        new = NativeLinear(old.in_features, old.out_features, bias=old.bias is not None)
    new.weight, new.bias = old.weight, old.bias
    return new
