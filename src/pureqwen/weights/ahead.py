"""Weights come from the disk before somebody waits for them: while a user types, or a tokenizer is read.

A view of a map has no bytes until it is looked at; then whoever looks waits, some megabytes at a time. The
embedding is the worst of it: each token that was not seen yet is a place of its own, so a prompt waits a
hundred times, and an answer at every other token.
"""

import atexit
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor

from pureqwen.memory import main_memory

LEAST = 64 << 20  # bytes: fewer are there at once, and not worth a thread
STRIDE = 64 << 10  # a look brings at least so many: Linux reads what lies around it, or a page of 2 MB
PIECE = 16 << 20  # looked at in one call; Python goes on beside it, and a process that ends waits for it


def read_ahead(tensors: Iterable[Tensor]) -> threading.Thread | None:
    """Begin to look at these tensors, in their order, in a thread that nobody has to wait for. It keeps none
    of them: what is dropped meanwhile is not read.

    None where that does not help: they are few, on another device, or more than the memory that is free, so
    that the last would push out the first.
    """
    found = [x for x in tensors if x.device.type == "cpu" and x.is_contiguous()]
    size = sum(x.nbytes for x in found)
    if size < LEAST or size > main_memory().free:
        return None
    ahead = Ahead(found)
    with suppress(RuntimeError):  # no more threads here: then who needs the weights waits for them
        ahead.start()
        atexit.register(ahead.end)
        return ahead
    return None


class Ahead(threading.Thread):
    """Looks at tensors while they live, one after the other."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__(name="read ahead", daemon=True)
        self.tensors = [weakref.ref(tensor) for tensor in tensors]
        self.ended = threading.Event()

    def run(self) -> None:
        with torch.inference_mode():
            for known in self.tensors:
                tensor = known()
                if self.ended.is_set():
                    return
                if tensor is not None:
                    self.look_at(tensor)
                del tensor
        atexit.unregister(self.end)

    def look_at(self, tensor: Tensor) -> None:
        data = tensor.detach().flatten().view(torch.uint8)
        for start in range(0, len(data), PIECE):
            if self.ended.is_set():
                return
            data[start : start + PIECE : STRIDE].sum()

    def end(self) -> None:
        """Look at nothing more, and wait: a process that ends within a call of torch is aborted."""
        self.ended.set()
        self.join()
