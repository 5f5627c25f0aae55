"""How much memory this machine has: main memory (of a container what it may use), and CUDA devices."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A place where weights and cache can lie; bytes."""

    name: str
    total: int
    free: int


def memories() -> list[Memory]:
    """Main memory first, then each CUDA device."""
    return [main_memory(), *cuda_memories()]


def main_memory() -> Memory:
    total, free = host()
    for limit, used in cgroup_limits():
        total, free = min(total, limit), min(free, max(0, limit - used))
    return Memory(name="main memory", total=total, free=free)


def host() -> tuple[int, int]:
    """Total and free bytes of the machine; where free is not told, total stands for it."""
    if sys.platform == "win32":
        return windows()
    with suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
        return sizes["MemTotal"], sizes["MemAvailable"]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total, total


def cgroup_limits() -> Iterator[tuple[int, int]]:
    """(limit, used) of the container around this process, if any; the page cache does not count as used."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" is no number: no limit
            root = Path(folder)
            bound, now = int((root / limit).read_text()), int((root / used).read_text())
            kept = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
            yield bound, now - int(kept.get("inactive_file", 0))


def windows() -> tuple[int, int]:
    """GlobalMemoryStatusEx: the structure starts with its length, and then has two words and eight sizes."""
    buffer = (ctypes.c_uint64 * 8)()
    ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(buffer)
    library = getattr(ctypes, "windll", None)
    assert library is not None
    library.kernel32.GlobalMemoryStatusEx(ctypes.byref(buffer))
    return buffer[1], buffer[2]


def cuda_memories() -> Iterator[Memory]:
    import torch

    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        yield Memory(name=f"cuda:{number} {torch.cuda.get_device_name(number)}", total=total, free=free)
