"""torch.compile, block by block.

All blocks are one class with one shape, so the graph that is built for the first serves every other: seconds
instead of the minutes that a graph of the whole model takes. The embedding, the last norm and the head stay
as they are: what they are given changes its length from call to call.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pureqwen.model import Qwen3


@contextmanager
def compiled_blocks(model: Qwen3) -> Iterator[None]:
    """While it lasts, the model's blocks run compiled; parameters, their names and what is saved stay.

    A graph is built at the first call and anew for another shape. ValueError where a C++ compiler is needed
    and there is none.
    """
    blocks = model.model.layers
    for block in blocks:
        block.compile(dynamic=False)
    try:
        yield
    except RuntimeError as error:
        if "InvalidCxxCompiler" not in str(error):
            raise
        raise ValueError("torch.compile needs a C++ compiler (g++): install one, or don't compile") from error
    finally:
        for block in blocks:
            vars(block).pop("_compiled_call_impl", None)  # nn.Module.compile has no public opposite


@contextmanager
def eager() -> Iterator[None]:
    """While it lasts, compiled blocks run as they are written: for a call or two with other shapes."""
    with torch.compiler.set_stance("force_eager"):
        yield
