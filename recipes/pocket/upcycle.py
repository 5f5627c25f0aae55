"""The dense pocket made a mixture of experts that computes the same, from where its sibling is trained.

Sparse upcycling (Komatsuzaki et al. 2023) with experts of half the width, in groups (He et al. 2024,
"Upcycling large language models into mixture of experts"): each MLP is cut into two halves of its inner
dimension, and both are copied four times.

    MLP (512)  ->  experts  A B  A B  A B  A B      (256 each)
    router         g1 g1  g2 g2  g3 g3  g4 g4       the same row for the two halves of a group

So the best two experts of a token are the two halves of one group, each weighted one half; with down_proj
doubled the mixture is the MLP, at the same active size. Training then makes the groups differ.
"""

import torch
from torch import Tensor

from pureqwen.model import MoE, Qwen3
from pureqwen.train.loss import Batch, cross_entropy

BALANCE = 0.01


@torch.no_grad()
def upcycle(dense: Qwen3, mixture: Qwen3, *, seed: int) -> Qwen3:
    """Fills `mixture` (8 experts, 2 chosen, of half the dense width) from `dense`; returns it."""
    given, rng = dense.state_dict(), torch.Generator().manual_seed(seed)
    for name, tensor in mixture.state_dict().items():
        if name in given:
            tensor.copy_(given[name])
    for layer, block in enumerate(mixture.model.layers):
        mlp = block.mlp
        assert isinstance(mlp, MoE)
        groups = len(mlp.experts.gate_proj) // 2
        for part, stacked in mlp.experts.named_parameters():
            weight = given[f"model.layers.{layer}.mlp.{part}.weight"]
            halves = weight.chunk(2, dim=1 if part == "down_proj" else 0)
            scale = 2.0 if part == "down_proj" else 1.0
            stacked.copy_(torch.stack(halves * groups) * scale)
        rows = torch.randn(groups, mlp.gate.weight.shape[1], generator=rng) * mlp.gate.weight.shape[1] ** -0.5
        mlp.gate.weight.copy_(rows.repeat_interleave(2, dim=0))
    return mixture


def balanced_cross_entropy(model: Qwen3, batch: Batch, *, count: int) -> Tensor:
    """Cross entropy, plus what an uneven use of the experts costs (Fedus et al. 2021, section 2.2).

    Of each router: E * sum over experts of (share of the tokens that chose it) * (mean probability), which is
    K when all are used alike. Taken from the raw logits by a hook, since the model returns none.
    """
    costs: list[Tensor] = []

    def listen(mlp: torch.nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        costs.append(imbalance(output, mlp_of[mlp].num_experts_per_tok))

    mlps = [block.mlp for block in model.model.layers if isinstance(block.mlp, MoE)]
    mlp_of = {mlp.gate: mlp for mlp in mlps}
    hooks = [mlp.gate.register_forward_hook(listen) for mlp in mlps]
    try:
        loss = cross_entropy(model, batch, count=count)
    finally:
        for hook in hooks:
            hook.remove()
    return loss + BALANCE * torch.stack(costs).mean() * (batch.count / count)


def imbalance(logits: Tensor, num_chosen: int) -> Tensor:
    """Router logits (T, E) to a scalar; at least K, where every expert is used alike."""
    probabilities = logits.float().softmax(-1)
    chosen = probabilities.topk(num_chosen, dim=-1).indices
    num_experts = logits.shape[-1]
    used = torch.zeros(num_experts).index_add_(0, chosen.flatten(), torch.ones(chosen.numel())) / len(logits)
    return num_experts * (used * probabilities.mean(0)).sum()
