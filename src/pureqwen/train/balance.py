"""The load-balancing loss: a mixture's tokens spread over its experts, or some of them never learn anything.

    of each layer:  f_e = choices that fell on expert e / tokens
                    P_e = mean probability that the router gave it
                    balance = E * sum over e of  f_e * P_e      K where all are used alike, more where not

Fedus et al. 2022, "Switch Transformers", equations 4 to 6, with K choices of a token as in transformers; the
gradient goes through P. It takes the router's raw logits (a softmax of a softmax is nearly flat whatever they
say) and leaves padding out. It is the mean over the layers. transformers pools the layers first: there an
expert that one layer never takes is made up for by another layer's of the same number.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from pureqwen.model import MoE, Qwen3
from pureqwen.train.loss import Batch, Loss

Route = Callable[[Tensor], tuple[Tensor, Tensor]]


def load_balance(logits: Sequence[Tensor], num_experts_per_tok: int, real: Tensor) -> Tensor:
    """The router logits of each layer (T, E), and which tokens are no padding (T,), to a float32 scalar."""
    return torch.stack([_balance(each[real], num_experts_per_tok) for each in logits]).mean()


def _balance(logits: Tensor, k: int) -> Tensor:
    num_experts = logits.shape[-1]
    probabilities = logits.softmax(-1, dtype=torch.float32)  # (T, E)
    chosen = probabilities.topk(k, dim=-1).indices
    share = torch.bincount(chosen.flatten(), minlength=num_experts) / len(logits)  # (E,)
    return num_experts * (share * probabilities.mean(0)).sum()


@contextmanager
def balanced(model: Qwen3, loss: Loss) -> Iterator[Loss]:
    """`loss` and `router_aux_loss_coef` (of the model's configuration) times the load-balancing loss.

    While it lasts, the routers of this model are watched. A step of several passes takes their mean, weighted
    by the learned positions as the loss itself is. Raises ValueError where the model has no router.
    """
    mixtures = [module for module in model.modules() if isinstance(module, MoE)]
    if not mixtures:
        raise ValueError("balance is for mixtures of experts, and this model has none")
    logits: list[Tensor] = []

    def both(model: Qwen3, batch: Batch, *, count: int) -> Tensor:
        logits.clear()
        main = loss(model, batch, count=count)
        balance = load_balance(logits, mixtures[0].num_experts_per_tok, batch.documents.flatten() >= 0)
        return main + model.config.router_aux_loss_coef * balance * (batch.count / count)

    for mixture in mixtures:
        vars(mixture)["route"] = _watched(mixture.route, logits)
    try:
        yield both
    finally:
        for mixture in mixtures:
            vars(mixture).pop("route")


def _watched(route: Route, logits: list[Tensor]) -> Route:
    """`route` that also writes down what it is given; compiled blocks leave it as it is."""

    def watched(given: Tensor) -> tuple[Tensor, Tensor]:
        logits.append(given)
        return route(given)

    return torch.compiler.disable(watched)  # type: ignore[no-any-return,no-untyped-call]
