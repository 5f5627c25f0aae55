"""The training loss: cross entropy of the next token, over the positions that are to be learned.

    loss = sum over learned positions of  -log softmax(logits)[next id]   /  their number

Logits are computed for these positions only (`keep`): with a vocabulary of 151,936 they are most of the
memory, and a chat's prompts are most of its positions. float32 throughout. The number is passed in, not
counted here, so that several passes that make up one step (accumulation) add up to exactly the mean over
all their positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pureqwen.model import Attend, PackedAttend, Qwen3


@dataclass(frozen=True)
class Batch:
    """Rows of packed documents; all (B, S) but the last.

    ids, positions (within the document), documents (the number of the document; -1 on padding), labels (the
    id that follows, -100 where it is not learned), count (learned positions).
    """

    ids: Tensor
    positions: Tensor
    documents: Tensor
    labels: Tensor
    count: int

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.ids.to(device),
            self.positions.to(device),
            self.documents.to(device),
            self.labels.to(device),
            self.count,
        )


IGNORED = -100  # the label of a position that is not learned, as everywhere in PyTorch


Attends = Callable[[Tensor], Sequence[Attend]]


class Loss(Protocol):
    """What a step makes small: the sum over a batch's learned positions, divided by `count`."""

    def __call__(self, model: Qwen3, batch: Batch, *, count: int) -> Tensor: ...


def cross_entropy(
    model: Qwen3, batch: Batch, *, count: int | None = None, attends: Attends | None = None
) -> Tensor:
    """Sum over the batch's learned positions divided by `count` (default: their number). A float32 scalar.

    attends: `documents` (B, S) to one `Attend` per layer; default: `PackedAttend`, causal in each document.
    """
    keep = (batch.labels != IGNORED).nonzero(as_tuple=True)
    if attends is None:
        chosen: Sequence[Attend] = [PackedAttend(batch.documents)] * model.config.num_hidden_layers
    else:
        chosen = attends(batch.documents)
    logits = model(batch.ids, positions=batch.positions, attends=chosen, keep=keep)  # (N, V)
    total = F.cross_entropy(logits.float(), batch.labels[keep], reduction="sum")
    return total / (batch.count if count is None else count)
