"""The steps that write an answer: one token for each row, over and over, always of one shape.

    prompt, chunk by chunk   as it is written: its products are large, and each length would be another shape
    one token for each row   where the blocks are compiled: one graph for all layers and any number of slots;
                             on CUDA the whole step is recorded, compiled or not, and replayed by one launch

A recorded step (a CUDA graph; "Accelerating PyTorch with CUDA Graphs", 2021) knows addresses, not values, and
runs no Python. So a step reads what changes, ids and positions, from one tensor of its own and works the mask
out from them. It holds the keys and values that it was made with: a cache that has grown or lost a row has
others, and gets a new step.
"""

import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pureqwen.cache import StaticCache
from pureqwen.generate.loop import CHUNK, Cached
from pureqwen.generate.row import Row
from pureqwen.model import Qwen3
from pureqwen.rewrite import eager, is_compiled, named_compiler

LATER = 3  # the use of a step that records it: a short answer is over by then
RECORDING = threading.Lock()  # one at a time


class Stepped(Cached):
    """`Cached` for a model on CUDA, or whose blocks are compiled (`rewrite.compile_blocks`): the same logits,
    sooner. On CUDA a step overwrites the logits of the step before, and hooks are called while it is recorded
    only. ValueError where a compiler is missing.
    """

    def __init__(
        self,
        model: Qwen3,
        cache: StaticCache,
        rows: Sequence[Row],
        *,
        chunk: int = CHUNK,
        speculative: int = 0,
    ) -> None:
        super().__init__(model, cache, rows, chunk=chunk, speculative=speculative)
        self.kind = Recorded if self.device.type == "cuda" else Step
        self.step: Step | None = None

    def forward(self, cached: Sequence[int], pieces: Sequence[Sequence[int]], kept: Sequence[int]) -> Tensor:
        if min(kept) < 1 or max(map(len, pieces)) > 1:  # some row reads its prompt, or a draft
            self.make_room(max(start + len(piece) for start, piece in zip(cached, pieces, strict=True)))
            with eager(self.model):
                return super().forward(cached, pieces, kept)
        with named_compiler():
            return self.step_to(max(cached) + 1)([piece[0] for piece in pieces], cached)

    def forget(self) -> None:
        self.step = None

    def step_to(self, end: int) -> "Step":
        """The step that makes texts of `end` tokens: the last one, as long as it fits."""
        self.make_room(end)
        used = self.cache.reach(end, doubling=self.kind is Recorded)
        if self.step is None or not self.step.fits(used):
            self.step = None
            self.step = self.kind(self.model, self.cache, used)
        return self.step

    def make_room(self, end: int) -> None:
        """For texts of `end` tokens; the last step goes where the keys and values do not stay."""
        if end > self.cache.capacity:
            self.step = None  # which holds the old keys and values, while new ones are made
        self.cache.reserve(end)


class Step:
    """One token for each row of a cache, whose attention reads `used` slots."""

    def __init__(self, model: Qwen3, cache: StaticCache, used: int) -> None:
        self.model, self.cache, self.used = model, cache, used
        self.held = keys_and_values(cache)
        device = self.held[0].device
        self.rows = torch.arange(cache.batch, device=device)[:, None]  # (B, 1)
        self.inputs = torch.zeros(2, cache.batch, 1, dtype=torch.long, device=device)  # ids and positions
        self.compiled = is_compiled(model)
        for tensor in self.held if self.compiled else ():
            torch._dynamo.maybe_mark_dynamic(tensor, 1)  # the slots: one graph for any number of them

    def fits(self, used: int) -> bool:
        """Whether this is still the step: as many slots, and the cache is where it was."""
        now = keys_and_values(self.cache)
        return self.used == used and all(old is new for old, new in zip(self.held, now, strict=True))

    def __call__(self, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """The logits (B, V) that follow these ids, one for each row, at these positions."""
        self.inputs.copy_(torch.tensor([ids, positions])[..., None])
        return self.run()

    def run(self) -> Tensor:
        return self.compute()

    def compute(self) -> Tensor:
        """From `inputs` to logits (B, V); nothing of it depends on a value that Python holds."""
        ids, positions = self.inputs  # each (B, 1)
        mask = self.cache.mask(positions, self.used)
        if self.compiled:
            torch._dynamo.maybe_mark_dynamic(mask, 3)
        self.cache.use(self.rows, positions, mask)
        logits: Tensor = self.model(ids, positions, self.cache.attends, (slice(None), 0))
        return logits


class Recorded(Step):
    """A step that is recorded at its third use; then it is replayed, at the same addresses."""

    def __init__(self, model: Qwen3, cache: StaticCache, used: int) -> None:
        super().__init__(model, cache, used)
        self.recording = Recording(self.compute, self.inputs.device)

    def run(self) -> Tensor:
        return self.recording()


class Recording:
    """What a function computes from tensors that stay where they are, always to the same tensor.

    A launch of each of its kernels by itself would take the host ten times as long as the device computes. A
    function that asks the device for a number (the loop over experts does: how many rows has each?) can't be
    recorded, and is called each time.
    """

    def __init__(self, compute: Callable[[], Tensor], device: torch.device, *, pool: Any = None) -> None:
        """pool: torch.cuda.graph_pool_handle's, shared by recordings that never run at the same time."""
        self.compute, self.device, self.pool = compute, device, pool
        self.uses = 0
        self.alone: bool | None = None  # whether it can be recorded, once that was tried
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> Tensor:
        with torch.cuda.device(self.device):
            self.uses += 1
            if self.uses == LATER:
                with suppress(torch.OutOfMemoryError), RECORDING:
                    self.record()
            if self.graph is None:
                return self.compute()
            self.graph.replay()
            return self.result

    def record(self) -> None:
        """Computes it twice before: for what is made at a first call, and to see whether it waits for the
        device. Each time it writes the same keys and values to the same slots.
        """
        stream = side_stream(self.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.compute()
            self.alone = runs_alone(self.compute)
        torch.cuda.current_stream().wait_stream(stream)
        if self.alone:
            graph = torch.cuda.CUDAGraph()
            # Another thread's work elsewhere on the device is none of the recording's business.
            with torch.cuda.graph(graph, self.pool, stream, capture_error_mode="thread_local"):
                self.result = self.compute()
            self.graph = graph


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Where all is recorded: memory that one recording leaves is another's on the same stream only."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def runs_alone(compute: Callable[[], object]) -> bool:
    """Whether the device computes this without an answer to the host, which a recording can't give.

    torch knows one mode for the whole process: another thread that waits for a device meanwhile has an error.
    """
    warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        compute()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return False
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return True


def keys_and_values(cache: StaticCache) -> list[Tensor]:
    """Of all layers."""
    return [tensor for attend in cache.attends for tensor in (attend.k, attend.v)]


def listened_to(model: Qwen3) -> bool:
    """Whether somebody's hook is called in a forward: a replay calls none."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
