"""The training loop: rows in a seeded order, forward, backward, clip, AdamW, and a log.

    for each step:  loss = sum over `accumulation` batches of cross entropy / learned positions of all of them
                    gradient clipped to `clip`; AdamW or Muon (optimizer.py) at the schedule's rate

Everything that a step depends on follows from the settings, the data and the step's number: rows are
shuffled by (seed, epoch), and there is no dropout. So a run that is resumed continues exactly as it would
have gone on.

What it does not do: several devices, LoRA, evaluation (pass `watch` and look at the model there).
"""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from pureqwen.config import TrainConfig
from pureqwen.model import Qwen3
from pureqwen.rewrite import compiled_blocks, eager
from pureqwen.train.balance import balanced
from pureqwen.train.data import Document, batch, pack
from pureqwen.train.loss import Batch, Loss, cross_entropy
from pureqwen.train.optimizer import make_optimizers


class Diverged(ValueError):
    """The loss or its gradient is no number any more: too high a learning rate, or broken data."""


@dataclass(frozen=True)
class StepLog:
    """What one step did: its number (from 1), loss, gradient norm, learning rate, and the tokens it
    computed.
    """

    step: int
    steps: int
    loss: float
    gradient_norm: float
    learning_rate: float
    num_tokens: int
    seconds: float


Watch = Callable[[StepLog], None]


@dataclass
class Trainer:
    """A model in training: `run()` takes the steps that are left. `step` steps are done; the optimizers hold
    their averages. `loss` may be one's own, or `cross_entropy` with other `attends` (functools.partial).
    """

    model: Qwen3
    documents: Sequence[Document]
    config: TrainConfig
    step: int = 0
    loss: Loss = cross_entropy
    optimizers: list[torch.optim.Optimizer] = field(init=False)

    def __post_init__(self) -> None:
        if self.model.config.quantization_config is not None:
            raise ValueError("a quantised model can't be trained: train the one it was made from")
        self.optimizers = make_optimizers(self.model, self.config)

    @property
    def steps(self) -> int:
        """All steps of the run."""
        if self.config.steps is not None:
            return self.config.steps
        num_rows = sum(len(self._rows_of(epoch)) for epoch in range(self.config.epochs))
        return math.ceil(num_rows / (self.config.batch_size * self.config.accumulation))

    def run(self, watch: Watch | None = None) -> list[float]:
        """The losses of the steps that were left. Calls `watch` after each. Raises Diverged."""
        steps, losses = self.steps, []
        self.model.train()
        compiled = compiled_blocks(self.model) if self.config.compile else nullcontext()
        with self._loss() as loss, compiled:
            for batches in self._batches(steps):
                log = self._take(batches, steps, loss)
                losses.append(log.loss)
                if watch is not None:
                    with eager(self.model):
                        watch(log)
        self.model.eval()
        return losses

    def _loss(self) -> AbstractContextManager[Loss]:
        """What is made small while the run lasts."""
        return balanced(self.model, self.loss) if self.config.balance else nullcontext(self.loss)

    def _take(self, batches: list[Batch], steps: int, loss_of: Loss) -> StepLog:
        """One optimizer step over the batches."""
        started = time.perf_counter()
        rate = self.config.rate_at(self.step, steps)
        for group in itertools.chain.from_iterable(o.param_groups for o in self.optimizers):
            group["lr"] = rate
        device = next(self.model.parameters()).device
        half = uses_bfloat16(self.config.precision, device)
        count = max(1, sum(b.count for b in batches))
        loss = torch.zeros((), device=device)
        self.model.zero_grad(set_to_none=True)
        for part in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                share = loss_of(self.model, part.to(device), count=count)
            share.backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise Diverged(
                f"step {self.step + 1}: the loss is {loss.item()} and its gradient's norm {norm.item()}; "
                "lower learning_rate, lengthen warmup_steps, or look at the data"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        num_tokens = sum(int((b.documents >= 0).sum()) for b in batches)
        seconds = time.perf_counter() - started
        return StepLog(self.step, steps, loss.item(), norm.item(), rate, num_tokens, seconds)

    def _rows_of(self, epoch: int) -> list[list[int]]:
        order = random.Random(f"{self.config.seed} {epoch}")
        return pack(self.documents, self.config.sequence_length, order=order)

    def _rows(self) -> Iterator[list[int]]:
        epoch = 0
        while True:
            yield from self._rows_of(epoch)
            epoch += 1

    def _batches(self, steps: int) -> Iterator[list[Batch]]:
        """The batches of each step that is left; rows of steps already done are passed over."""
        c, rows = self.config, self._rows()
        for step in range(steps):
            taken = [[next(rows) for _ in range(c.batch_size)] for _ in range(c.accumulation)]
            if step >= self.step:
                yield [batch(self.documents, part, c.sequence_length) for part in taken]


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """What "auto" means: bfloat16, but float32 on processors that emulate its products (far slower)."""
    if precision != "auto":
        return precision == "bfloat16"
    return device.type != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability()
