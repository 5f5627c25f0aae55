"""Muon: what it does to a matrix, which parameters it has, and that it learns."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pureqwen import ModelConfig, Qwen3, TrainConfig
from pureqwen.train.optimizer import Muon, make_optimizers, orthogonal

MUON = TrainConfig(optimizer="muon", learning_rate=1e-2, weight_decay=0.1)


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16), (3, 24, 40), (2, 3, 40, 24)], ids=str)
def test_singular_values_become_about_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape) * 7
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.shape == (*shape[:-2], min(shape[-2:]))
    assert values.min() > 0.5 and values.max() < 1.3
    assert torch.linalg.svdvals(matrices).max() / torch.linalg.svdvals(matrices).min() > 2


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)], ids=str)
def test_the_singular_vectors_stay(shape: tuple[int, int]) -> None:
    """M = U S V' becomes U f(S) V': U' orthogonal(M) V is diagonal and positive."""
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonal(matrix) @ vh.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-4
    assert inner.diagonal().min() > 0.5


def test_bfloat16_is_near_float32() -> None:
    torch.manual_seed(4)
    matrices = torch.randn(8, 64, 128)
    exact, rounded = orthogonal(matrices), orthogonal(matrices.bfloat16()).float()
    assert 0 < (exact - rounded).norm() < 0.05 * exact.norm()
    assert torch.linalg.svdvals(rounded).min() > 0.5


def test_matrices_of_a_batch_are_those_of_their_own() -> None:
    torch.manual_seed(2)
    matrices = torch.randn(4, 12, 20)
    torch.testing.assert_close(orthogonal(matrices), torch.stack([orthogonal(m) for m in matrices]))


def test_a_matrix_of_zeros_does_not_become_nan() -> None:
    assert torch.equal(orthogonal(torch.zeros(4, 6)), torch.zeros(4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_is_momentum_decay_and_the_orthogonal_matrix(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the formulas, for one parameter and two steps, with products in either precision."""
    monkeypatch.setattr("pureqwen.train.optimizer.has_bfloat16", lambda device: dtype == torch.bfloat16)
    torch.manual_seed(3)
    parameter = nn.Parameter(torch.randn(6, 10))
    expected, average = parameter.detach().clone(), torch.zeros(6, 10)
    optimizer = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(2):
        gradient = torch.randn(6, 10)
        parameter.grad = gradient.clone()
        optimizer.step()
        average = torch.lerp(average, gradient, 0.1)
        update = orthogonal(torch.lerp(gradient, average, 0.9).to(dtype)).float()
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 10**0.5 * update
    torch.testing.assert_close(parameter.detach(), expected)


def test_a_parameter_without_a_gradient_stays() -> None:
    used, unused = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([used, unused], lr=0.1, weight_decay=0.5)
    used.grad = torch.randn(4, 4)
    optimizer.step()
    assert torch.equal(unused, torch.ones(4, 4)) and not torch.equal(used, torch.ones(4, 4))
    assert list(optimizer.state) == [used]


def names(optimizer: torch.optim.Optimizer, model: Qwen3) -> dict[str, float]:
    """The names of an optimizer's parameters, and their weight decay."""
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    return {name: decays[id(p)] for name, p in model.named_parameters() if id(p) in decays}


@pytest.mark.parametrize("moe", [False, True])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(
    moe: bool, tiny: Callable[..., ModelConfig]
) -> None:
    experts = {
        "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "tie_word_embeddings": False,
    }  # fmt: skip
    model = Qwen3(tiny(**experts) if moe else tiny())
    muon, adamw = make_optimizers(model, MUON)
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    ours, rest = names(muon, model), names(adamw, model)
    assert set(ours) | set(rest) == {name for name, _ in model.named_parameters()}
    assert not set(ours) & set(rest)
    router = {"model.layers.0.mlp.gate.weight", "model.layers.1.mlp.gate.weight"} if moe else set()
    head = {"lm_head.weight"} if moe else set()
    norms = {name for name in rest if "norm" in name}
    assert set(rest) == {"model.embed_tokens.weight", *norms, *router, *head} and len(norms) == 9
    assert all("_proj" in name or "experts" in name for name in ours)
    assert set(ours.values()) == {0.1} and {rest[name] for name in norms} == {0.0}
    assert {rest[name] for name in set(rest) - norms} == {0.1}


def test_adamw_alone_has_everything(tiny: Callable[..., ModelConfig]) -> None:
    model = Qwen3(tiny())
    (adamw,) = make_optimizers(model, TrainConfig())
    assert set(names(adamw, model)) == {name for name, _ in model.named_parameters()}


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer is 'sgd'.*adamw, muon"):
        TrainConfig(optimizer="sgd")


def test_frozen_parameters_are_no_optimizers(tiny: Callable[..., ModelConfig]) -> None:
    model = Qwen3(tiny())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("down_proj" in name)
    (muon,) = make_optimizers(model, MUON)
    assert set(names(muon, model)) == {f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1)}
