"""The training loss: cross entropy of the next token, over the positions that are to be learned.

    loss = sum over learned positions of  -log softmax(logits)[next id]   /  their number

Logits are computed for these positions only (`keep`): with a vocabulary of 151,936 they are most of the
memory, and a chat's prompts are most of its positions. float32 throughout. The number is passed in, not
counted here, so that several passes that make up one step (accumulation) add up to exactly the mean over
all their positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pureqwen.model import PackedAttend, Qwen3


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


def cross_entropy(model: Qwen3, batch: Batch, *, count: int | None = None) -> Tensor:
    """Sum over the batch's learned positions divided by `count` (default: their number). A float32 scalar."""
    keep = (batch.labels != IGNORED).nonzero(as_tuple=True)
    attends = [PackedAttend(batch.documents)] * model.config.num_hidden_layers
    logits = model(batch.ids, positions=batch.positions, attends=attends, keep=keep)  # (N, V)
    total = F.cross_entropy(logits.float(), batch.labels[keep], reduction="sum")
    return total / (batch.count if count is None else count)
