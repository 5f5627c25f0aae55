"""torch.compile, block by block.

All blocks are one class with one shape, so the graph that is built for the first serves every other: seconds
instead of the minutes that a graph of the whole model takes. The embedding, the last norm and the head stay
as they are: what they are given changes its length from call to call. Experts stay, too, where the host has
to know which of them are hit, and by how many rows: that is known only when they run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pureqwen.model import MoE, Qwen3

# What torch.compile raises where a tool is missing, and what to install.
MISSING = {
    "InvalidCxxCompiler": "a C++ compiler (g++)",
    "TritonMissing": "Triton",
    "Failed to find C compiler": "a C compiler (gcc)",
}

# On CUDA the product of one row with a matrix becomes a sum, fused with what stands around it and tuned until
# it reads as fast as the memory does: what a library picks for one row is several times slower.
TUNED = {"coordinate_descent_tuning": True}


def compile_blocks(model: Qwen3, *, dynamic: bool | None = None) -> None:
    """From now on the model's blocks run compiled; parameters, their names and what is saved stay.

    A graph is built at the first call. dynamic: False builds another for each shape, True one that serves
    all shapes, None one that serves those dimensions that were marked or have changed once.
    """
    for experts in _experts(model):
        experts.forward = torch.compiler.disable(experts.forward)  # type: ignore[no-untyped-call]
    for block in model.model.layers:
        on_cuda = any(parameter.is_cuda for parameter in block.parameters())
        block.compile(dynamic=dynamic, options=TUNED if on_cuda else None)


def _experts(model: Qwen3) -> list[nn.Module]:
    """Those that can't be part of a graph."""
    found = [module.experts for module in model.modules() if isinstance(module, MoE)]
    return [experts for experts in found if not getattr(experts, "at_once", False)]


def is_compiled(model: Qwen3) -> bool:
    """Whether `compile_blocks` was called for it."""
    return any(block._compiled_call_impl is not None for block in model.model.layers)


@contextmanager
def compiled_blocks(model: Qwen3, *, dynamic: bool | None = False) -> Iterator[None]:
    """`compile_blocks` while it lasts, and no longer. ValueError where a compiler is missing."""
    apart = _experts(model)
    compile_blocks(model, dynamic=dynamic)
    try:
        with named_compiler():
            yield
    finally:
        for block in model.model.layers:
            vars(block).pop("_compiled_call_impl", None)  # nn.Module.compile has no public opposite
        for experts in apart:
            vars(experts).pop("forward", None)


@contextmanager
def named_compiler() -> Iterator[None]:
    """Where torch.compile lacks a compiler, the error is a ValueError that says which."""
    try:
        yield
    except RuntimeError as error:
        for sign, tool in MISSING.items():
            if sign in f"{type(error).__name__} {error}":
                raise ValueError(f"torch.compile needs {tool}: install it, or don't compile") from error
        raise


@contextmanager
def eager(model: Qwen3) -> Iterator[None]:
    """While it lasts, compiled blocks run as they are written: for a call or two with other shapes."""
    if not is_compiled(model):  # setting the stance loads the compiler, for a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
