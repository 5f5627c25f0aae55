"""The optimizers: AdamW for everything, or Muon for the matrices of the blocks.

    AdamW (Loshchilov & Hutter 2019): each weight's step is its gradient's average over its own size's average
    Muon (Jordan et al. 2024):        each matrix's step is its momentum with all singular values made one:
                                      M = U S V'  ->  U V', by five Newton-Schulz steps, no decomposition

So Muon moves a matrix equally far in every direction that its gradient has, the rare ones too. Its step
is scaled by 0.2 sqrt(longer side) to the size that AdamW's has (Liu et al. 2025, "Muon is scalable for LLM
training"), so that one learning rate serves both. Embedding, head, norms, biases and routers stay with AdamW.

Matrices of one shape are orthogonalised together, in bfloat16 where the device has such products: the steps
correct each other's rounding. Elsewhere in float32: torch.optim.Muon's bfloat16, a matrix at a time, is forty
times slower on such a processor.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pureqwen.config import TrainConfig
from pureqwen.model import Qwen3

NOT_MUONS = ("embed_tokens", "lm_head", "mlp.gate.")  # parts of names: tables and the router


class Muon(torch.optim.Optimizer):
    """Muon over parameters of two dimensions (or three: a stack of matrices), with Nesterov momentum and
    decoupled weight decay.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "the training loop computes the loss itself"
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for parameters in shapes.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        momentum, updates = group["momentum"], []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            average = state.setdefault("momentum", torch.zeros_like(parameter))
            average.lerp_(parameter.grad, 1 - momentum)
            updates.append(parameter.grad.lerp(average, momentum))
        scale = group["lr"] * 0.2 * max(parameters[0].shape[-2:]) ** 0.5
        stack = torch.stack(updates)
        if has_bfloat16(stack.device):
            stack = stack.bfloat16()
        for parameter, update in zip(parameters, orthogonal(stack), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrices whose singular values are (about) one: (..., m, n) -> (..., m, n).

    Newton-Schulz with the coefficients of Jordan et al.: p(s) = 3.4445 s - 4.7750 s^3 + 2.0315 s^5 drives
    every singular value in (0, 1] to between 0.7 and 1.2.
    """
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # the shorter side first: smaller products
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    result: Tensor = x.mT if tall else x
    return result


def has_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies bfloat16 by instructions of its own, faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def make_optimizers(model: Qwen3, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon and AdamW; weight decay on matrices only (norms and biases have one dimension).

    Only for parameters that require a gradient, and none that would have no parameter.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    muons = [p for name, p in named if config.optimizer == "muon" and _is_muons(name, p)]
    taken = {id(p) for p in muons}
    rest = [p for _, p in named if id(p) not in taken]
    found: list[torch.optim.Optimizer] = []
    if muons:
        found.append(Muon(muons, lr=config.learning_rate, weight_decay=config.weight_decay))
    if rest:
        groups = [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups, betas = [g for g in groups if g["params"]], (config.beta1, config.beta2)
        found.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True))
    return found


def _is_muons(name: str, parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and not any(part in name for part in NOT_MUONS)
