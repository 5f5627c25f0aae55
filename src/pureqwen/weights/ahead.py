"""Weights come from the disk before somebody waits for them: while a user types, or a tokenizer is read.

A view of a map has no bytes until it is looked at; then whoever looks waits, some megabytes at a time. The
embedding is the worst of it: each token that was not seen yet is a place of its own, so a prompt waits a
hundred times, and an answer at every other token.
"""

import atexit
import threading
from collections.abc import Iterable

import torch
from torch import Tensor

from pureqwen.memory import main_memory

LEAST = 64 << 20  # bytes: fewer are there at once, and not worth a thread
STRIDE = 64 << 10  # a look brings at least so many (Linux reads 128 KiB around it, or a page of 2 MB)
PIECE = 256 << 20  # looked at in one call: Python goes on beside it, and a process that ends waits for it


def read_ahead(tensors: Iterable[Tensor]) -> threading.Thread | None:
    """Begin to look at these tensors, in their order, in a thread that nobody has to wait for.

    None where that does not help: they are few, on another device, or more than the memory that is free, so
    that the last would push out the first.
    """
    found = [x.detach() for x in tensors if x.device.type == "cpu" and x.is_contiguous()]
    size = sum(x.nbytes for x in found)
    if size < LEAST or size > main_memory().free:
        return None
    ended = threading.Event()
    thread = threading.Thread(target=_look_at, args=(found, ended), name="read ahead", daemon=True)

    def end() -> None:
        ended.set()
        thread.join()

    atexit.register(end)
    thread.start()
    return thread


def _look_at(tensors: list[Tensor], ended: threading.Event) -> None:
    with torch.inference_mode():
        while tensors:
            bytes_of = tensors.pop(0).flatten().view(torch.uint8)
            for start in range(0, len(bytes_of), PIECE):
                if ended.is_set():
                    return
                bytes_of[start : start + PIECE : STRIDE].sum()
