"""The model for a CPU: native products of few rows and fused blocks. `load` makes it wherever it can."""

import logging

import torch
from torch import nn

from pureqwen import kernels
from pureqwen.model import Experts, Qwen3
from pureqwen.rewrite.few import NativeExperts, NativeLinear
from pureqwen.rewrite.fuse import fuse
from pureqwen.rewrite.walk import replace

LARGE = 20_000_000  # parameters: a smaller model answers at once either way, so nothing has to be said
_log = logging.getLogger(__name__)
PATTERNS = ("model.layers.*.self_attn.*_proj", "model.layers.*.mlp.*_proj", "lm_head")


def for_cpu(model: Qwen3) -> Qwen3:
    """The model for a CPU: native products of few rows and fused blocks, where native code runs at all."""
    reason = kernels.native()
    if reason is None:
        return fuse(native_products(model))
    if model.config.num_parameters() > LARGE:
        _log.warning("no native code here, so PyTorch does everything, slower: %s", reason)
    return model


def native_products(model: Qwen3) -> Qwen3:
    """The model with native products of few rows; parameters are the very same."""
    makes = {**dict.fromkeys(PATTERNS, _linear), "model.layers.*.mlp.experts": _experts}
    for pattern, make in makes.items():
        try:
            replace(model, pattern, make)
        except ValueError:  # nothing of this kind: mixtures have no mlp.*_proj, dense models no experts
            continue
    return model


def _linear(path: str, old: nn.Module) -> nn.Module:
    if type(old) is not nn.Linear:  # quantised, or one's own
        return old
    with torch.device("meta"):
        new = NativeLinear(old.in_features, old.out_features, bias=old.bias is not None)
    new.weight, new.bias = old.weight, old.bias
    return new


def _experts(path: str, old: nn.Module) -> nn.Module:
    if type(old) is not Experts:
        return old
    new = NativeExperts.__new__(NativeExperts)
    nn.Module.__init__(new)
    new.gate_proj, new.up_proj, new.down_proj = old.gate_proj, old.up_proj, old.down_proj
    return new
