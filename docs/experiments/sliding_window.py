"""Another attention: each position sees itself and the window - 1 positions before it, and no further.

    python docs/experiments/sliding_window.py [MODEL]

No line of the model changes: what a query may look at is decided by the `attend` that each layer is handed.
One keeps nothing and serves for training, one lives in the cache. (Beltagy et al. 2020, "Longformer", section
3.1.) Through n layers word still comes from n * (window - 1) positions before.
"""

import sys
from functools import partial

import torch
from lab import FRESH, LENGTH, Found, learn, show, start
from torch import Tensor

from pureqwen import Qwen
from pureqwen.cache import StaticAttend
from pureqwen.model import PackedAttend
from pureqwen.model.attention import scaled_dot_product
from pureqwen.train import Loss, cross_entropy

QUESTION, GREEDY = "What is 3 + 4?", {"temperature": 0, "max_tokens": 40, "logprobs": True}


class Window:
    """For training: causal and near, within each document. `documents` (B, S): whose each token is."""

    def __init__(self, documents: Tensor, window: int) -> None:
        self.mask = PackedAttend(documents).mask.triu(1 - window)  # (B, 1, S, S): true where query sees key

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product(q, k, v, mask=self.mask)


class CachedWindow(StaticAttend):
    """The same over a cache, where position p is slot p."""

    def __init__(self, window: int) -> None:
        self.window = window

    def sees(self) -> Tensor:
        slots = torch.arange(self.mask.shape[-1], device=self.mask.device)
        far = slots <= self.positions[..., None] - self.window  # (B, S, used)
        groups = self.mask.shape[-2] // far.shape[-2]  # query heads that share a key lie side by side
        return self.mask.masked_fill(far.repeat_interleave(groups, dim=1)[:, None], float("-inf"))


def narrow(qwen: Qwen, window: int) -> Loss:
    """Lets `qwen` answer through a window; returns the loss that trains it so."""
    layers = qwen.config.num_hidden_layers
    qwen.attends = lambda: [CachedWindow(window) for _ in range(layers)]
    return partial(cross_entropy, attends=lambda documents: [Window(documents, window)] * layers)


def check(qwen: Qwen) -> None:
    """A window as long as the text is full attention: bit for bit in training, word for word with a cache."""
    ids, layers = torch.arange(LENGTH, device=qwen.device), qwen.config.num_hidden_layers
    one = torch.zeros_like(ids)  # all of it is one document
    full = qwen.model(ids, attends=[PackedAttend(one)] * layers)
    assert torch.equal(full, qwen.model(ids, attends=[Window(one, LENGTH)] * layers))
    narrow(qwen, qwen.context)
    through = qwen.chat(QUESTION, **GREEDY)
    qwen.attends = None
    assert qwen.chat(QUESTION, **GREEDY).token_ids == through.token_ids


def experiment(model: str = FRESH, *, seed: int = 0, steps: int | None = None) -> Found:
    found = Found()
    found.curves["full"] = learn(start(model, seed=seed), seed=seed, steps=steps)
    for window in (32, 8):
        qwen = start(model, seed=seed)
        found.curves[f"window {window}"] = learn(qwen, seed=seed, steps=steps, loss=narrow(qwen, window))
        print(f"through a window of {window}:", qwen.chat(QUESTION, **GREEDY).text)
    check(qwen)
    return found


if __name__ == "__main__":
    show(experiment(*sys.argv[1:]))
