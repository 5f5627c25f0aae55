"""TrainConfig: how a model is trained, whatever the model and the data are.

The schedule of the learning rate is a linear warm-up, then constant, then half a cosine down to a fraction
of it (Loshchilov & Hutter 2017; the constant part as in "warm-up, stable, decay", Hu et al. 2024). It
imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pureqwen.config.check import check_bool, check_float, check_int, refuse

PRECISIONS = ("auto", "bfloat16", "float32")
OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of one training run.

    steps               optimizer steps; None: as many as `epochs` takes
    epochs              passes over the data where `steps` is None
    batch_size          rows in one forward pass
    sequence_length     tokens of a row; documents are packed into rows and don't see one another
    accumulation        forward passes per optimizer step (as one batch that is as large as all of them)
    optimizer           adamw, or muon: Muon for the matrices of the blocks and AdamW for the rest
    learning_rate       at its highest; Muon's steps are scaled so that both take the same
    warmup_steps        steps in which it rises from 0
    decay_from          share of all steps after which it falls along a cosine; 0: right after the warm-up
    final_rate          what it falls to, as a share of learning_rate
    weight_decay        on matrices; never on norms and biases
    beta1, beta2        AdamW's averages
    clip                largest norm of the gradient; 0: off
    balance             add the load-balancing loss of a mixture of experts, times its configuration's
                        router_aux_loss_coef (off, as in transformers unless output_router_logits is on)
    precision           of the matrix products: bfloat16 (autocast; weights and loss stay float32), float32 or
                        auto: bfloat16 where the device computes it, float32 where it emulates it
    compile             the blocks, by torch.compile: a start of some seconds, then quicker steps
    seed                of fresh weights and of the order of the data
    log_every           steps between two lines of the log
    save_every          steps between two checkpoints; 0: none but the result
    keep_checkpoints    how many of them stay on the disk
    skip_long_chats     leave out chats that are longer than a row (and count them); else an error

    Raises ValueError naming the field, what it was and what it must be.
    """

    steps: int | None = None
    epochs: int = 1
    batch_size: int = 8
    sequence_length: int = 512
    accumulation: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 3e-4
    warmup_steps: int = 100
    decay_from: float = 0.0
    final_rate: float = 0.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    balance: bool = False
    precision: str = "auto"
    compile: bool = False
    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    keep_checkpoints: int = 2
    skip_long_chats: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None:
            self._set("steps", check_int("steps", self.steps, low=1))
        for name in ("epochs", "batch_size", "accumulation", "log_every", "keep_checkpoints"):
            self._set(name, check_int(name, getattr(self, name), low=1))
        self._set("sequence_length", check_int("sequence_length", self.sequence_length, low=2))
        for name in ("warmup_steps", "save_every"):
            self._set(name, check_int(name, getattr(self, name)))
        self._set("seed", check_int("seed", self.seed, high=2**63 - 1))
        self._set("learning_rate", check_float("learning_rate", self.learning_rate, low=0.0, above=True))
        for name in ("decay_from", "final_rate", "beta1", "beta2"):
            self._set(name, check_float(name, getattr(self, name), low=0.0, high=1.0))
        for name in ("weight_decay", "clip"):
            self._set(name, check_float(name, getattr(self, name), low=0.0))
        for name in ("beta1", "beta2"):
            if getattr(self, name) == 1.0:
                refuse(name, 1.0, "below 1")
        if self.optimizer not in OPTIMIZERS:
            refuse("optimizer", self.optimizer, f"one of {', '.join(OPTIMIZERS)}")
        if self.precision not in PRECISIONS:
            refuse("precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        for name in ("balance", "compile", "skip_long_chats"):
            check_bool(name, getattr(self, name))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, ... of a run of `steps`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        start = max(self.warmup_steps, round(self.decay_from * steps))
        if step < start:
            return self.learning_rate
        share = (step - start + 1) / max(1, steps - start)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        return self.learning_rate * (self.final_rate + (1.0 - self.final_rate) * cosine)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """From a JSON object; an unknown name is a ValueError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"unknown training setting {', '.join(unknown)}: known are {', '.join(sorted(known))}"
            )
        return cls(**values)
