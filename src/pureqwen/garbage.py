"""Blocks in which Python looks for no cycles of objects: while a model is made, or a template's clock runs.

A process that has torch and a vocabulary has two hundred thousand objects; to look through them takes a
quarter of a second, in which no thread of Python goes on.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is collected while the block runs, unless a block of another thread, begun before, ends."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def building() -> Iterator[None]:
    """For a block that makes much that stays, modules or a model: nothing is collected meanwhile, and then
    what there is counts as old, so that it is not looked through among the new either.
    """
    with uncollected():
        yield
        if not gc.get_freeze_count():  # what somebody else has left alone for ever would be old, too
            gc.freeze()
            gc.unfreeze()
