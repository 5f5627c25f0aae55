"""The mixture of experts: every way of computing it equals the naive loop; no idle expert is looked at."""

import pytest
import torch
from peers import MOE, build, tiny
from torch.nn import functional as F

from pureqwen.model import Experts, MoE, naive_experts


def moe(**changes) -> MoE:
    model = build(tiny(**{**MOE, **changes}))
    layer = model.model.layers[0].mlp
    assert isinstance(layer, MoE)
    return layer


def routed(layer: MoE, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(tokens, layer.gate.in_features, generator=torch.Generator().manual_seed(3))
    return (x, *layer.route(layer.gate(x)))


@pytest.mark.parametrize("tokens", [0, 1, 2, 17, 200])
@pytest.mark.parametrize("way", ["loop", "grouped"])
@torch.inference_mode()
def test_sorted_experts_equal_the_naive_loop(tokens, way, monkeypatch):
    layer = moe()
    x, weights, chosen = routed(layer, tokens)
    if way == "grouped":  # the way of a CUDA device; the product that it calls runs on a CPU too
        monkeypatch.setattr(Experts, "loop", Experts.grouped)
    got = layer.experts(x, weights, chosen)
    torch.testing.assert_close(got, naive_experts(layer.experts, x, weights, chosen), atol=1e-5, rtol=1e-5)


def test_gradients_of_the_sorted_experts_equal_the_naive_loop():
    layer = moe()
    x, weights, chosen = routed(layer, 30)
    grads = []
    for run in (
        lambda: layer.experts(x, weights, chosen),
        lambda: naive_experts(layer.experts, x, weights, chosen),
    ):
        layer.zero_grad()
        run().square().sum().backward(retain_graph=True)
        grads.append([p.grad.clone() for p in layer.experts.parameters()])
    for ours, naive in zip(*grads, strict=True):
        torch.testing.assert_close(ours, naive, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_experts_that_hold_no_token_are_not_looped_over(monkeypatch):
    layer = moe()
    x, weights, chosen = routed(layer, 3)
    asked = []
    one = Experts.one
    monkeypatch.setattr(
        Experts, "one", lambda self, e, rows: asked.append((e, len(rows))) or one(self, e, rows)
    )
    layer.experts(x, weights, chosen)
    assert [e for e, _ in asked] == sorted(set(chosen.flatten().tolist()))
    assert sum(n for _, n in asked) == chosen.numel()


@torch.inference_mode()
def test_experts_are_views_of_the_weights_not_copies(monkeypatch):
    layer = moe()
    x, weights, chosen = routed(layer, 5)
    inside = []
    linear = F.linear

    def watch(rows, weight, bias=None):
        inside.append(weight.untyped_storage().data_ptr())
        return linear(rows, weight, bias)

    monkeypatch.setattr(F, "linear", watch)
    layer.experts(x, weights, chosen)
    stacked = {p.untyped_storage().data_ptr() for p in layer.experts.parameters()}
    assert inside and set(inside) == stacked


def test_router_is_softmaxed_over_all_experts_in_float32_then_cut_to_k_then_renormalised():
    layer = moe()
    logits = torch.randn(50, 8).bfloat16()
    weights, chosen = layer.route(logits)
    every = logits.float().softmax(-1)
    best, numbers = every.topk(2)
    assert torch.equal(chosen, numbers)
    assert weights.dtype == torch.bfloat16
    assert torch.equal(weights, (best / best.sum(-1, keepdim=True)).bfloat16())
    layer.norm_topk_prob = False
    assert torch.equal(layer.route(logits)[0], best.bfloat16())


def test_grouped_way_asks_the_device_for_nothing(monkeypatch):
    layer = moe()
    x, weights, chosen = routed(layer, 9)
    expected = layer.experts(x, weights, chosen)
    monkeypatch.setattr(Experts, "loop", Experts.grouped)
    for name in ("tolist", "item", "cpu", "nonzero", "__bool__", "__int__"):
        monkeypatch.setattr(
            torch.Tensor, name, lambda *_, name=name: pytest.fail(f"{name} waits for the device")
        )
    got = layer.experts(x, weights, chosen)
    monkeypatch.undo()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_experts_of_one_token_gathered_equal_the_naive_loop():
    """What a step on CUDA is compiled from."""
    layer = moe()
    x, weights, chosen = routed(layer, 1)
    got = layer.experts.gathered(x, weights, chosen)
    torch.testing.assert_close(got, naive_experts(layer.experts, x, weights, chosen), atol=1e-5, rtol=1e-5)
