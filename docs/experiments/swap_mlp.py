"""The feed-forward network swapped for one of your own: relu(up(x))^2 where Qwen3 has silu(gate(x)) * up(x).

    python docs/experiments/swap_mlp.py [MODEL]

Without a gate two matrices are left, so they may be half as wide again: as many weights as before (So et al.
2021, "Primer", section 3). Both are trained alike. The swapped model is then saved, and comes back equal.
"""

import sys
import tempfile

import torch
from lab import FRESH, Found, learn, show, start
from torch import Tensor, nn

import pureqwen
from pureqwen import Qwen3
from pureqwen.rewrite import replace


class Squared(nn.Module):
    """(..., D) -> (..., D), inside 3/2 F wide."""

    def __init__(self, hidden_size: int, size: int, *, std: float) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, size, bias=False)
        self.down_proj = nn.Linear(size, hidden_size, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=std)  # as Qwen3 begins, not as nn.Linear does

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.up_proj(x).relu().square())


def squared(model: Qwen3) -> Qwen3:
    """The rewrite: Qwen3 -> Qwen3. It runs before loading, on a model without numbers, or after."""
    c = model.config
    size = 3 * c.intermediate_size // 2
    return replace(
        model, "model.layers.*.mlp", lambda path, old: Squared(c.hidden_size, size, std=c.initializer_range)
    )


def experiment(model: str = FRESH, *, seed: int = 0, steps: int | None = None) -> Found:
    found = Found()
    found.curves["SwiGLU"] = learn(start(model, seed=seed), seed=seed, steps=steps)

    qwen = start(model, seed=seed)
    squared(qwen.model)
    found.curves["squared ReLU"] = learn(qwen, seed=seed, steps=steps)

    with tempfile.TemporaryDirectory() as folder:
        qwen.save(folder)
        again = pureqwen.load(folder, rewrite=squared)
        ids = torch.arange(100, device=qwen.device)
        assert torch.equal(again.model(ids), qwen.model(ids))
    return found


if __name__ == "__main__":
    show(experiment(*sys.argv[1:]))
