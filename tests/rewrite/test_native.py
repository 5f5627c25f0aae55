"""Native products of floats: the same weights and names, the same logits up to rounding."""

import pytest
import torch
from peers import MOE, build, tiny

from pureqwen import kernels
from pureqwen.rewrite.few import NativeLinear
from pureqwen.rewrite.native import native_products

SHAPES = {"dense": {}, "tied": {"tie_word_embeddings": True}, "moe": MOE, "bias": {"attention_bias": True}}


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_the_very_same(shape: str) -> None:
    model = build(tiny(**SHAPES[shape]))
    before = dict(model.named_parameters())
    after = dict(native_products(model).named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert isinstance(model.lm_head, NativeLinear)
    assert type(model.get_submodule("model.layers.0.self_attn.q_proj")) is NativeLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_logits_are_those_of_the_plain_model_up_to_rounding(shape: str, dtype: torch.dtype) -> None:
    """In bfloat16 the error against float64 (same weights) is at most 1.1 times the plain model's."""
    config, ids = tiny(**SHAPES[shape]), torch.arange(12) * 5
    exact = build(config).to(dtype).double()(ids)
    plain = (build(config).to(dtype)(ids).double() - exact).abs()
    native = (native_products(build(config).to(dtype))(ids).double() - exact).abs()
    limit = 2e-5 * exact.abs().max() if dtype == torch.float32 else 1.1 * plain.mean()
    assert (native.max() if dtype == torch.float32 else native.mean()) <= limit


@pytest.mark.skipif(kernels.native() is not None, reason=f"no native code: {kernels.native()}")
def test_few_rows_are_native_and_many_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], torch.ops.pureqwen.linear

    def counted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return real(x, weight)  # type: ignore[no-any-return]

    monkeypatch.setattr(torch.ops.pureqwen, "linear", counted)
    model = native_products(build(tiny()))
    with torch.inference_mode():
        most = kernels.FEW if kernels.fast_bfloat16() else kernels.MANY
        model(torch.arange(5))
        model(torch.arange(most))
        assert set(asked) == {5, most}
        model(torch.arange(most + 1))
        assert set(asked) == {5, most}


def test_it_still_learns() -> None:
    model = native_products(build(tiny()))
    model(torch.arange(5)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
