"""What this machine can do at most: bytes read and copied per second, multiply-adds per second.

    read     the best of several ways to go once through a tensor that no cache holds: sum, dot product,
             matrix by vector, and the native product of one row where there is one
    copy     a tensor to another; both count, what is read and what is written
    peaks    square products in each dtype, the best over growing sizes; of whole numbers the native ones, too

A limit is the best of its runs, not the median: what disturbs a run makes it slower, never quicker. Measured
with the threads that torch has, on the device of the model.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from pureqwen import kernels
from pureqwen.kernels import twins

WIDTH = 4096  # columns, where the buffer is read as a matrix
SIZES = (256, 512, 1024, 2048, 4096, 8192)  # of the square products
GROUP = 64  # of 4-bit weights with one scale
LONG = 0.2  # seconds: a product that takes longer is the last; where int8 is emulated it is the second

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bytes/s read and copied, how reading was quickest, and operations/s by dtype."""

    read: float
    read_by: str
    copy: float
    peaks: dict[str, float]


def measure_limits(device: torch.device, *, num_bytes: int, runs: int) -> Limits:
    """num_bytes: of the buffer that is read, far more than any cache holds; its copy takes as much again."""
    rows = max(1, num_bytes // (4 * WIDTH))
    buffer = torch.ones(rows, WIDTH, device=device)  # written: a page of fresh zeros is no memory yet
    read, read_by = read_bandwidth(buffer, runs)
    copy = copy_bandwidth(buffer, runs)
    del buffer
    return Limits(read=read, read_by=read_by, copy=copy, peaks=measure_peaks(device, runs=runs))


@torch.inference_mode()
def read_bandwidth(buffer: Tensor, runs: int) -> tuple[float, str]:
    """Bytes/s, and the way that reads most."""
    seconds = {name: best(run, buffer.device, runs) for name, run in ways_to_read(buffer)}
    quickest = min(seconds, key=lambda name: seconds[name])
    return buffer.nbytes / seconds[quickest], quickest


@torch.inference_mode()
def copy_bandwidth(buffer: Tensor, runs: int) -> float:
    """Bytes/s, read and written together."""
    twin = torch.ones_like(buffer)
    return 2 * buffer.nbytes / best(lambda: twin.copy_(buffer), buffer.device, runs)


def ways_to_read(buffer: Tensor) -> Iterator[tuple[str, Run]]:
    """Name and call of each way to read a matrix (rows, WIDTH) once."""
    vector, flat = torch.ones(WIDTH, device=buffer.device), buffer.view(-1)
    yield "a sum", flat.sum
    yield "a dot product", lambda: torch.dot(flat, flat)
    yield "a matrix-vector product", lambda: torch.mv(buffer, vector)
    if buffer.device.type == "cpu" and kernels.native() is None:
        yield "a native product", lambda: kernels.linear(vector[None], buffer)


def measure_peaks(device: torch.device, *, runs: int, sizes: tuple[int, ...] = SIZES) -> dict[str, float]:
    """Operations/s of products by dtype, "int4" being 4-bit weights by 8-bit numbers; what the device can't
    multiply is left out.
    """
    half = ["float16"] if device.type != "cpu" else []  # which CPUs multiply number by number
    peaks: dict[str, float] = {}
    for name in ("float32", "bfloat16", *half, "int8", "int4"):
        for way in ways_to_multiply(name, device):
            with suppress(RuntimeError, NotImplementedError):  # torch says of no device what it can multiply
                peaks[name] = max(peaks.get(name, 0.0), peak(way, device, runs=runs, sizes=sizes))
    return peaks


def ways_to_multiply(name: str, device: torch.device) -> Iterator[Callable[[int], Run]]:
    """Given n, the call of a product of (n, n) by (n, n): torch's, and the native one."""

    def ones(*shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
        return torch.ones(*shape, dtype=dtype, device=device)

    def floats(n: int) -> Run:
        a, b = (ones(n, n, dtype=getattr(torch, name)) for _ in range(2))
        return lambda: a @ b.t()

    def integers(n: int) -> Run:
        a, b = ones(n, n), ones(n, n)
        return lambda: torch._int_mm(a, b.t())

    def native(n: int) -> Run:
        scale = ones(n, 1, dtype=torch.float32)
        rows, weight = kernels.Whole(ones(n, n), scale, scale), ones(n, n)
        if name == "int8":
            return lambda: kernels.product_int8(rows, weight, scale)
        packed, scales = twins.pack(weight), ones(n, max(1, n // GROUP), dtype=torch.float32)
        return lambda: kernels.product_int4(rows, packed, scales)

    if name != "int4":
        yield integers if name == "int8" else floats
    if name in ("int8", "int4") and device.type == "cpu" and kernels.native() is None:
        yield native


@torch.inference_mode()
def peak(
    way: Callable[[int], Run], device: torch.device, *, runs: int, sizes: tuple[int, ...] = SIZES
) -> float:
    """Operations/s: 2 n^3 over the time of an (n, n) by (n, n) product, the best over n."""
    found = 0.0
    for n in sizes:
        seconds = best(way(n), device, runs)
        found = max(found, 2 * n**3 / seconds)
        if seconds > LONG:
            break
    return found


def best(run: Run, device: torch.device, runs: int) -> float:
    """Seconds of the quickest of `runs` runs; one before them warms up, unless it takes long by itself."""
    times: list[float] = []
    while len(times) <= runs and not (times and times[0] > 5 * LONG):
        wait(device)
        started = time.perf_counter()
        run()
        wait(device)
        times.append(time.perf_counter() - started)
    return min(times)


def wait(device: torch.device) -> None:
    """Until the device has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
