"""What the machine allows: sampled between the turns of a run, and what that makes of a row.

The limits and the floor of a forward are those of `pureqwen bench` (pureqwen.evaluate), to which oneDNN's
product of 8-bit numbers comes. Neither reading what must be read nor multiplying what must be multiplied can
be beaten; but the limit of products is what torch's, oneDNN's and our own reach with square ones.
"""

import statistics
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.peers.rows import Key
from pureqwen.config import ModelConfig
from pureqwen.evaluate.limits import WIDTH, best, measure_peaks, read_bandwidth
from pureqwen.evaluate.roofline import roof_of, work_of
from pureqwen.explain import Ledger, ledger

BUFFER = 1 << 28  # bytes that are read: more than caches hold, and room beside the workers' models
RUNS = 3
SIDE = 1024  # of the product in 8 bits: half as many rows
CPU = torch.device("cpu")


class Machine:
    """Samples, each the best of some runs: what disturbs makes slower. Their median is the limit."""

    def __init__(self) -> None:
        self.read: list[float] = []  # bytes/s
        self.peaks: dict[str, list[float]] = {}  # operations/s, by what is multiplied

    def sample_reading(self) -> None:
        """Takes a second: memory is as quick in one minute as it is slow in another."""
        self.read.append(read_bandwidth(torch.ones(BUFFER // (4 * WIDTH), WIDTH), RUNS)[0])

    def sample_products(self) -> None:
        for name, speed in measure_peaks(CPU, runs=RUNS).items():
            speed = max(speed, whole_peak()) if name == "int8" else speed
            self.peaks.setdefault(name, []).append(speed)

    def of_a_task(self) -> "Machine":
        """With the same products, and memory as it is while one task is measured."""
        own = Machine()
        own.peaks = self.peaks  # the very same: those measured later count, too
        return own

    @property
    def bandwidth(self) -> float:
        return statistics.median(self.read)

    @property
    def fastest(self) -> dict[str, float]:
        return {name: statistics.median(speeds) for name, speeds in self.peaks.items()}

    def seconds(self, counted: Ledger, rows: list[tuple[int, int]]) -> float:
        """At least so many, for rows of (tokens cached, tokens now); logits of the last only."""
        dtype = {4: "float32", 2: "bfloat16"}[counted.item_bytes]
        bits = min(part.bits for part in counted.parts)
        roof, _ = roof_of(self.bandwidth, self.fastest, dtype=dtype, bits=bits)
        return roof.floor(work_of(counted, rows))


@torch.inference_mode()
def whole_peak() -> float:
    """Operations/s of oneDNN's product of uint8 rows with int8 weights, prepared before; 0 without oneDNN."""
    with suppress(RuntimeError, AttributeError):
        return 2 * (SIDE // 2) * SIDE * SIDE / best(whole_product(), CPU, 20)
    return 0.0


def whole_product() -> Callable[[], object]:
    ops = torch.ops.onednn
    packed = ops.qlinear_prepack(torch.ones(SIDE, SIDE, dtype=torch.int8), [SIDE // 2, SIDE])
    rows = torch.ones(SIDE // 2, SIDE, dtype=torch.uint8)
    scales, zeros = torch.ones(SIDE), torch.zeros(SIDE, dtype=torch.int64)
    return lambda: ops.qlinear_pointwise(
        rows, 1.0, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def limit(key: Key, machine: Machine, folder: Path, dtype: str) -> float:
    """The most tokens a second, or for memory the MB that weights and cache take. folder: our checkpoint."""
    counted = ledger(ModelConfig.from_pretrained(folder), dtype=dtype)
    if key.what == "memory":
        return (counted.weight_bytes + counted.cache_bytes * key.prompt) / 1e6
    cached, now = (0, key.prompt) if key.what.endswith("prefill") else (key.prompt, 1)
    return key.batch * now / machine.seconds(counted, [(cached, now)] * key.batch)
