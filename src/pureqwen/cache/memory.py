"""Memory for keys and values: all zeros, and in pages of 2 MB where it is large and the system has them.

Attention reads a text's keys and values once for each token, as fast as memory gives them; and in small
pages a processor spends part of that time looking up where the next one lies.
"""

import math
import mmap
import sys
from contextlib import suppress

import torch
from torch import Tensor

SMALL = 64 << 10  # bytes that are not worth a map of their own
LARGE = 8 << 20  # bytes; of less, the last huge page would be too much of it


def zeros(*shape: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A tensor of zeros. On a CPU memory is taken only where it is written to."""
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or sys.platform == "win32" or size < SMALL:
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux" and size >= LARGE:
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
