"""Native products for what PyTorch lacks on a CPU, each with a twin in PyTorch.

    linear(x, weight)   linear_int8(x, weight, scale)   linear_int4(x, packed, scale)

x (..., K) to (..., N). Up to FEW rows on a CPU the native code of ops.cpp runs, if there is one; for more
rows, on another device, or without it, the twin. `native()` says which, and compiles at its first call (some
seconds, once a machine where it succeeds).
"""

from functools import cache

import torch
from torch import Tensor

from pureqwen.kernels import twins
from pureqwen.kernels.build import NoKernels, library

__all__ = ["FEW", "linear", "linear_int4", "linear_int8", "native"]

FEW = 16  # rows: with more, the products of large blocks that PyTorch has are faster


@cache
def native() -> str | None:
    """None where the native code runs; else why it does not, in words."""
    try:
        torch.ops.load_library(str(library()))  # type: ignore[no-untyped-call]
    except NoKernels as error:
        return str(error)
    except OSError as error:
        return f"the compiled library can't be loaded: {error}"
    _describe()
    return None


def _describe() -> None:
    """What the operations return, for torch.compile and the meta device."""
    for name in ("linear", "linear_int8", "linear_int4"):
        torch.library.register_fake(f"pureqwen::{name}", _like_linear)


def _like_linear(x: Tensor, weight: Tensor, *scale: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., K) by weight (N, K), float32 or bfloat16: (..., N) in x's dtype."""
    rows = x.reshape(-1, x.shape[-1])
    fits = x.shape[-1] % 32 == 0
    y = torch.ops.pureqwen.linear(rows.contiguous(), weight) if fits and _native(rows) else None
    return (twins.linear(rows, weight) if y is None else y).view(*x.shape[:-1], len(weight))


def linear_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x (..., K) by int8 weight (N, K) with a scale for each of its rows, (N, 1): (..., N) in x's dtype."""
    rows = x.reshape(-1, x.shape[-1])
    run = torch.ops.pureqwen.linear_int8 if _native(rows) else twins.linear_int8
    return run(rows.contiguous(), weight, scale).view(*x.shape[:-1], len(weight))


def linear_int4(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """x (..., K) by packed 4-bit weight (N, K/8), a scale for each group, (N, K/G): (..., N) in x's dtype."""
    rows = x.reshape(-1, x.shape[-1])
    run = torch.ops.pureqwen.linear_int4 if _native(rows) else twins.linear_int4
    return run(rows.contiguous(), packed, scale).view(*x.shape[:-1], len(packed))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _ready() -> bool:
    return native() is None


def _native(rows: Tensor) -> bool:
    """Whether these rows are few, and of a kind that the native code takes."""
    known = rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.bfloat16)
    return known and len(rows) <= FEW and _ready()
