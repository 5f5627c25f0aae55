"""Qwen3's mixture of experts against a dense twin: 8 networks of half the width, of which a token takes 2.

    python docs/experiments/router.py [MODEL]      MODEL: a mixture, of which the use of its experts is shown

A token meets as many weights in both, but for the router's. Nothing in the loss asks the router to use its
experts evenly. The third run adds what does, E * sum over experts of (share of the choices) * (mean
probability): 1 where all are used alike (Fedus et al. 2021, "Switch Transformers", section 2.2).
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from lab import FRESH, Found, documents, learn, show, start
from torch import Tensor

from pureqwen import Qwen, Qwen3
from pureqwen.rewrite import find
from pureqwen.train import Batch, cross_entropy

ROUTERS = "model.layers.*.mlp.gate"
MOE = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 192}
WEIGHT = 0.01  # of the term that asks for evenness


def routing(model: Qwen3, compute: Callable[[], Any]) -> tuple[Any, list[Tensor]]:
    """What `compute` gives, and the logits (T, E) of the routers meanwhile, layer after layer."""
    logits: list[Tensor] = []
    routers = find(model, ROUTERS).values()
    hooks = [router.register_forward_hook(lambda _, x, out: logits.append(out)) for router in routers]
    result = compute()
    for hook in hooks:
        hook.remove()
    return result, logits


def shares(logits: Tensor, num_chosen: int) -> Tensor:
    """Logits (T, E) to each expert's share of the choices (E,)."""
    counts = logits.topk(num_chosen).indices.flatten().bincount(minlength=logits.shape[-1])
    return counts / counts.sum()


def balanced(model: Qwen3, batch: Batch, *, count: int) -> Tensor:
    """Cross entropy, and the term's gradient; not its value, so that the losses of all runs compare."""
    loss, logits = routing(model, lambda: cross_entropy(model, batch, count=count))
    real = batch.documents.flatten() >= 0  # the rest of a row is padding
    for layer in (each[real] for each in logits):
        parts = shares(layer, model.config.num_experts_per_tok) * layer.softmax(-1).mean(0)
        term = WEIGHT * len(parts) * parts.sum() / len(logits)
        loss = loss + (term - term.detach()) * batch.count / count
    return loss


@torch.inference_mode()
def used(qwen: Qwen) -> list[list[float]]:
    """Layer by layer each expert's share of the choices, on chats that nobody trained on."""
    texts = [torch.tensor(each.ids, device=qwen.device) for each in documents(qwen, seed=10**6, count=100)]
    _, logits = routing(qwen.model, lambda: [qwen.model.hidden(ids) for ids in texts])
    layers, k = len(find(qwen.model, ROUTERS)), qwen.config.num_experts_per_tok
    return [shares(torch.cat(logits[n::layers]), k).tolist() for n in range(layers)]


def experiment(model: str = FRESH, *, seed: int = 0, steps: int | None = None) -> Found:
    if model != FRESH:
        return Found(shares={model: used(start(model))})
    found = Found({"dense": learn(start(seed=seed), seed=seed, steps=steps)})
    for name, loss in (("experts", cross_entropy), ("experts, balanced", balanced)):
        qwen = start(seed=seed, **MOE, norm_topk_prob=True)
        found.curves[name] = learn(qwen, seed=seed, steps=steps, loss=loss)
        found.shares[name] = used(qwen)
    return found


if __name__ == "__main__":
    show(experiment(*sys.argv[1:]))
