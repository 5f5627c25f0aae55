"""Native code for what PyTorch lacks on a CPU, each operation with a twin in PyTorch that defines it.

    linear, linear_int8, linear_int4     products of few rows at the memory's speed; of many of whole numbers,
                                         and bfloat16 where the processor has units for matrices
    quantize                             rows as whole numbers, for several products that read the same
    rms_norm, swiglu, qk_norm_rope       what stands between the products, in one pass each
    store_pages, paged_attention         keys and values into their slots; queries over them
    attention, feed_forward, blocks      the halves of a block, or all blocks, in one call: with few rows an
                                         operation takes about as long to start as to run
    route, experts                       a mixture of experts: which of them a few rows go to, and all of
                                         them in one call

On a CPU native code runs, if there is some (ops.h, amx.h, products.cpp, blocks.cpp); elsewhere, or without
it, the twin. `native()` says which, and compiles at its first call (some seconds, once a machine where it
succeeds).
"""

import sys
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from pureqwen.kernels import twins
from pureqwen.kernels.build import NoKernels, library
from pureqwen.kernels.twins import fast_bfloat16

__all__ = [
    "FEW",
    "LINE",
    "MANY",
    "InPlace",
    "Place",
    "Table",
    "Whole",
    "attends_blocks",
    "attention",
    "blocks",
    "experts",
    "fast_bfloat16",
    "feed_forward",
    "linear",
    "linear_int4",
    "linear_int8",
    "native",
    "paged_attention",
    "product_int4",
    "product_int8",
    "qk_norm_rope",
    "quantize",
    "rms_norm",
    "rms_norm_quantize",
    "route",
    "runs",
    "store_pages",
    "swiglu",
    "swiglu_quantize",
    "takes_experts",
]

LINE = 32  # numbers: what native code reads whole of a row of floats, and of a head
FEW = 16  # rows: with more, the products of large blocks that PyTorch has are faster;
SEVERAL = 64  # the same of bfloat16, where the native code has the processor's instruction for it;
MANY = 48  # of floats with AVX2 alone; of whole numbers, unless the native code has the instruction for them


class Whole(NamedTuple):
    """Rows (M, K) of x as whole numbers: x = q * scale."""

    q: Tensor  # (M, K) int8, from -127 to 127
    scale: Tensor  # (M, 1) float32
    like: Tensor  # some tensor of the dtype and on the device that their products are to have


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
    whole = {"rms_norm_quantize", "swiglu_quantize", "quantize"}
    for name in ("rms_norm", "swiglu", "qk_norm_rope", "paged_attention"):
        torch.library.register_fake(f"pureqwen::{name}", lambda x, *rest: torch.empty_like(x))
    for name in whole:
        torch.library.register_fake(f"pureqwen::{name}", _like_whole)
    for name in ("product_int8", "product_int4"):
        torch.library.register_fake(f"pureqwen::{name}", _like_product)
    torch.library.register_fake(
        "pureqwen::scale_sums", lambda sums, a, scale, like: like.new_empty(sums.shape)
    )
    for name in ("linear", "linear_alike"):
        torch.library.register_fake(f"pureqwen::{name}", lambda x, weight: x.new_empty(len(x), len(weight)))
    torch.library.register_fake("pureqwen::store_pages", lambda *tensors: None)
    torch.library.register_fake("pureqwen::route", _like_routed)
    for name in ("attention", "feed_forward", "blocks", "experts"):
        torch.library.register_fake(f"pureqwen::{name}", lambda x, *rest: torch.empty_like(x))


def _like_whole(x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(len(x), 1, dtype=torch.float32)


def _like_product(q: Tensor, scale: Tensor, weight: Tensor, scales: Tensor, like: Tensor) -> Tensor:
    return like.new_empty(len(q), len(weight))


def _like_routed(
    x: Tensor, weight: Tensor, eps: float, router: Tensor, num_experts: int, sums_to_one: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape = len(x), num_experts
    return torch.empty_like(x), x.new_empty(shape), x.new_empty(shape, dtype=torch.long)


def _ready() -> bool:
    return native() is None


# What torch.compiler.assume_constant_result does; calling that imports the compiler: a second of every start.
_ready._dynamo_marked_constant = True  # type: ignore[attr-defined]


def runs(x: Tensor) -> bool:
    """Whether native code runs on tensors of this device and dtype."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and _ready()


# ---- products --------------------------------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., K) by weight (N, K), float32 or bfloat16: (..., N) in x's dtype."""
    rows = x.reshape(-1, x.shape[-1])
    fits = x.shape[-1] % LINE == 0 and runs(rows) and len(rows) <= _most(rows, weight)
    y = torch.ops.pureqwen.linear(rows.contiguous(), weight) if fits else twins.linear(rows, weight)
    return y.view(*x.shape[:-1], len(weight))


def _most(x: Tensor, weight: Tensor) -> int:
    """Rows of x up to which products with this float weight are native."""
    if not fast_bfloat16():
        return MANY
    if not x.dtype == weight.dtype == torch.bfloat16:
        return FEW
    if multiplies_many():
        return sys.maxsize
    return SEVERAL if twins.slower_bfloat16() else FEW


def multiplies_many() -> bool:
    """Whether native products of bfloat16 and of whole numbers are the quickest for any number of rows."""
    return _ready() and _known("multiplies_many", torch.bfloat16)


multiplies_many._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _known(name: str, dtype: torch.dtype) -> bool:
    """What the operation of this name says of the processor, for tensors of this dtype."""
    with _disable_current_modes():  # FakeTensorMode's tensors would ask for a shape
        return bool(getattr(torch.ops.pureqwen, name)(torch.empty(0, dtype=dtype, device="cpu")))


def linear_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x (..., K) by int8 weight (N, K) with a scale for each of its rows, (N, 1): (..., N) in x's dtype."""
    return product_int8(quantize(x.reshape(-1, x.shape[-1])), weight, scale).view(*x.shape[:-1], len(weight))


def linear_int4(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """x (..., K) by packed 4-bit weight (N, K/8), a scale for each group, (N, K/G): (..., N) in x's dtype."""
    return product_int4(quantize(x.reshape(-1, x.shape[-1])), packed, scale).view(*x.shape[:-1], len(packed))


def quantize(x: Tensor) -> Whole:
    """Rows x (M, K) as whole numbers."""
    run = torch.ops.pureqwen.quantize if runs(x) else twins.whole
    q, scale = run(x.contiguous())
    return Whole(q, scale, x)


def product_int8(rows: Whole, weight: Tensor, scale: Tensor) -> Tensor:
    """Whole rows (M, K) by int8 weight (N, K) with a scale for each of its rows, (N, 1): (M, N)."""
    if not runs(rows.like):
        return twins.product_int8(rows.q, rows.scale, weight, scale, rows.like)
    run = torch.ops.pureqwen
    if len(rows.q) > MANY and not multiplies_many() and twins.faster_int8():
        y: Tensor = run.scale_sums(twins.exact(rows.q, weight), rows.scale, scale, rows.like)
    else:
        y = run.product_int8(rows.q, rows.scale, weight, scale, rows.like)
    return y


def product_int4(rows: Whole, packed: Tensor, scale: Tensor) -> Tensor:
    """Whole rows (M, K) by packed 4-bit weight (N, K/8), a scale for each group, (N, K/G): (M, N)."""
    run = torch.ops.pureqwen.product_int4 if runs(rows.like) else twins.product_int4
    return run(rows.q, rows.scale, packed, scale, rows.like)


# ---- between the products --------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of rows x (M, K), as model/layers.py has it."""
    run = torch.ops.pureqwen.rms_norm if runs(x) else twins.rms_norm
    return run(x, weight, eps)


def rms_norm_quantize(x: Tensor, weight: Tensor, eps: float) -> Whole:
    """RMSNorm of rows x (M, K), as whole numbers."""
    run = torch.ops.pureqwen.rms_norm_quantize if runs(x) else twins.rms_norm_quantize
    q, scale = run(x, weight, eps)
    return Whole(q, scale, x)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up of rows (M, F)."""
    run = torch.ops.pureqwen.swiglu if runs(gate) else twins.swiglu
    return run(gate, up)


def swiglu_quantize(gate: Tensor, up: Tensor) -> Whole:
    """silu(gate) * up of rows (M, F), as whole numbers."""
    run = torch.ops.pureqwen.swiglu_quantize if runs(gate) else twins.swiglu_quantize
    q, scale = run(gate, up)
    return Whole(q, scale, gate)


def qk_norm_rope(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """x (T, H, Dh): heads normed, then each pair (i, i + Dh/2) turned by its angle; cos, sin (T, Dh/2)."""
    run = torch.ops.pureqwen.qk_norm_rope if runs(x) else twins.qk_norm_rope
    return run(x, weight, eps, cos, sin)


# ---- keys and values in pages ----------------------------------------------------------------------------


def store_pages(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    """k and v (T, Hkv, Dh) into pages (P, page, Hkv, Dh); slot s is place s % page of page s // page."""
    run = torch.ops.pureqwen.store_pages if runs(k) else twins.store_pages
    run(k.contiguous(), v.contiguous(), k_pages, v_pages, slots)


class Table(NamedTuple):
    """Where the keys and values of R rows lie, and which of the T tokens of a step are whose; all int32."""

    pages: Tensor  # (R, W): the pages of each row, in the order of its text
    starts: Tensor  # (R + 1,): tokens starts[r] to starts[r + 1] are row r's
    lengths: Tensor  # (R,): keys of each row, these tokens' own with them


def paged_attention(q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Table) -> Tensor:
    """q (T, H, Dh) over keys and values in pages (P, page, Hkv, Dh): a token sees its row's up to its own.

    For a few tokens a row; with many, PyTorch's attention with its large products is faster, unless
    `attends_blocks`.
    """
    run = torch.ops.pureqwen.paged_attention if _attends(q) else twins.paged_attention
    return run(q.contiguous(), k_pages, v_pages, *table)


def attends_blocks(q: Tensor) -> bool:
    """Whether `paged_attention` is quick for many tokens q (T, H, Dh) of a row, too."""
    return _attends(q) and _in_blocks(q.dtype)


def _in_blocks(dtype: torch.dtype) -> bool:
    return _known("attends_blocks", dtype)


_in_blocks._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _attends(q: Tensor) -> bool:
    return q.shape[-1] % LINE == 0 and runs(q)


# ---- several in one call, for few rows; native, where `runs` says so --------------------------------------


class Place(NamedTuple):
    """Where a step's keys and values go, and where they lie: the same in the pages of every layer."""

    slots: Tensor  # (T,): of the step's tokens
    table: Table


class InPlace:
    """An `Attend` that may leave its work to native code: this puts keys and values, and attends to them."""

    k: Tensor  # (P, page, Hkv, Dh), and v: pages of its layer
    v: Tensor
    slots: Tensor  # of the step: layers that have the very same have the same place, if one
    ALIKE = False  # whether there is a place for all layers of just this kind or for none

    def place(self, x: Tensor) -> Place | None:
        """The place of a step of x (..., D); None where only calling the attend will do."""
        return None


# The weights of these: of norms (D,), and of matrices (N, K) with the scales of whole numbers behind them.


def attention(
    x: Tensor,
    weights: Sequence[Tensor],
    angles: Sequence[Tensor],
    place: Place,
    pages: InPlace,
    *,
    eps: float,
) -> Tensor:
    """Rows x (T, D) with what a block's attention over the keys in its pages makes of them, normed.

    weights: of the norm, of queries, keys and values, of the norms of queries and keys, of the output.
    angles: the cosines and sines, of each T times Dh/2.
    """
    run = torch.ops.pureqwen.attention.default
    y: Tensor = run(x, eps, weights, *angles, pages.k, pages.v, place.slots, *place.table)
    return y


def feed_forward(x: Tensor, weights: Sequence[Tensor], *, eps: float) -> Tensor:
    """Rows x (T, D) with what the feed-forward network makes of them, normed.

    weights: of the norm, of gate, up and down.
    """
    y: Tensor = torch.ops.pureqwen.feed_forward.default(x, eps, weights)
    return y


def blocks(
    x: Tensor,
    weights: Sequence[Tensor],
    angles: Sequence[Tensor],
    place: Place,
    pages: Sequence[InPlace],
    *,
    eps: float,
) -> Tensor:
    """Rows x (T, D) after all blocks, each with its pages.

    weights: of each block those of `attention`, then those of `feed_forward`; and of a norm, if one follows.
    """
    k, v = [layer.k for layer in pages], [layer.v for layer in pages]
    run = torch.ops.pureqwen.blocks.default
    y: Tensor = run(x, eps, weights, *angles, k, v, place.slots, *place.table)
    return y


def takes_experts(x: Tensor, weight: Tensor | None = None) -> bool:
    """Whether `experts` is for these tokens x (T, D): there are no more than its products are quick for, and
    no gradient, compiler or other device asks for PyTorch's operations. weight: one of the experts' matrices,
    where they are floats.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    widths = x.shape[1:] if weight is None else weight.shape
    if not all(width % LINE == 0 for width in widths) or not runs(x):
        return False
    if weight is None:
        return len(x) <= MANY or multiplies_many() or not twins.faster_int8()
    most = _most(x, weight)
    return len(x) <= most or most >= SEVERAL


def route(
    x: Tensor, weight: Tensor, router: Tensor, *, eps: float, num_experts: int, sums_to_one: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Few tokens x (T, D) normed, and the shares and numbers, each (T, K), of the experts that the router
    (E, D) chooses for each: what model.MoE gives its experts. sums_to_one: the shares of a token's experts.
    """
    run = torch.ops.pureqwen.route.default if runs(x) else twins.route
    h, weights, chosen = run(x, weight, eps, router, num_experts, sums_to_one)
    return h, weights, chosen


def experts(x: Tensor, weights: Tensor, chosen: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Tokens x (T, D) through the experts chosen for each, weights and chosen (T, K): (T, D).

    matrices: gate, up and down of all experts, stacked (E, N, K); or those of whole numbers, each with its
    scales behind it, of every expert that was chosen, in the order of experts.
    """
    y: Tensor = torch.ops.pureqwen.experts.default(x.contiguous(), weights, chosen, matrices)
    return y
