"""A mixture of experts in one call: the bits of its experts one after the other."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pureqwen import kernels
from pureqwen.config import ModelConfig
from pureqwen.kernels import twins
from pureqwen.model import Qwen3
from pureqwen.rewrite import native_products, quantize

pytestmark = pytest.mark.skipif(kernels.native() is not None, reason="no native code here")

SHAPE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 1024,  # so much that two threads share the experts of one token, in 4 bits too
}
KINDS = ("float32", "bfloat16", "int8", "int4-g64", "int4-g32")


def make(kind: str, **changed: Any) -> tuple[Any, torch.dtype]:
    """A mixture of experts of this kind, and the dtype of its activations."""
    torch.manual_seed(0)
    config = replace(ModelConfig.preset("Qwen3-0.6B"), **SHAPE | changed)
    model = Qwen3(config).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(std=0.2)
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    model = model.to(dtype)
    if kind.startswith("int"):
        model = quantize(model, kind)
    return native_products(model).model.layers[0].mlp, dtype


@pytest.fixture(scope="module", params=KINDS)
def mixture(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


def both(mlp: Any, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """What the mixture gives, in one call and expert by expert."""
    calls = []
    run = kernels.experts
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(kernels, "experts", lambda *args: calls.append(1) or run(*args))
        mine = mlp(x)
        assert calls == [1]
        patch.setattr(kernels, "takes_experts", lambda *args: False)
        theirs = mlp(x)
        assert calls == [1]
    return mine, theirs


@pytest.mark.parametrize(
    "num_tokens", [1, 2, 5, 16, 40]
)  # of many each expert has more than eight on average
@pytest.mark.parametrize("threads", [1, 2])
def test_bits_are_those_of_one_expert_after_the_other(
    mixture: Any, num_tokens: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlp, dtype = mixture
    x = torch.randn(num_tokens, 256, generator=torch.Generator().manual_seed(num_tokens)).to(dtype)
    with torch.no_grad():
        if num_tokens > kernels.FEW and not mlp.experts.takes(x):
            pytest.skip("so many tokens are for PyTorch here")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mine, theirs = both(mlp, x, monkeypatch)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(mine, theirs)
    assert mine.abs().sum() > 0


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4-g64"])
def test_experts_that_get_more_rows_than_blocks_are_quick_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles, in a team, and rows that must not lie a multiple of 4,096 bytes apart."""
    mlp, dtype = make(kind, hidden_size=64, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=2048)
    x = torch.randn(240, 64, generator=torch.Generator().manual_seed(7)).to(dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(kernels, "takes_experts", lambda *args: True)
    try:
        mine, theirs = both(mlp, x, monkeypatch)
    finally:
        torch.set_num_threads(before)
    if kind == "bfloat16":  # PyTorch's product adds in another order
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max()))
    else:
        assert torch.equal(mine, theirs)


def test_tokens_that_chose_no_expert_have_nothing() -> None:
    x, matrix = torch.randn(3, 32), torch.randn(4, 64, 32)
    none = torch.empty(3, 0)
    y = kernels.experts(x, none, none.long(), [matrix, matrix, matrix.mT.contiguous()])
    assert torch.equal(y, torch.zeros(3, 32))


def test_a_token_is_the_same_beside_others(mixture: Any) -> None:
    mlp, dtype = mixture
    x = torch.randn(16, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        weights, chosen = mlp.route(mlp.gate(x))
        alone = [
            mlp.experts(x[t : t + 1], weights[t : t + 1].contiguous(), chosen[t : t + 1].contiguous())
            for t in range(16)
        ]
        assert torch.equal(mlp.experts(x, weights, chosen), torch.cat(alone))


def test_tokens_that_are_quicker_elsewhere_a_gradient_or_a_width_that_does_not_fit_are_for_pytorch() -> None:
    weight = torch.empty(64, 32)
    with torch.no_grad():
        most = kernels.FEW if kernels.fast_bfloat16() else kernels.MANY
        assert kernels.takes_experts(torch.empty(most, 32), weight)
        assert not kernels.takes_experts(torch.empty(most + 1, 32), weight)
        assert not kernels.takes_experts(torch.empty(1, 24), torch.empty(64, 24))
        assert kernels.takes_experts(torch.empty(48, 32))
        any_number = kernels.multiplies_many() or not twins.faster_int8()
        assert kernels.takes_experts(torch.empty(49, 32)) == any_number
        any_number = kernels.fast_bfloat16() and (kernels.multiplies_many() or twins.slower_bfloat16())
        many = torch.empty(1000, 32, dtype=torch.bfloat16)
        assert kernels.takes_experts(many, weight.bfloat16()) == any_number
    assert not kernels.takes_experts(torch.empty(1, 32), weight)


def test_matrices_that_do_not_fit_are_an_error_and_not_a_crash() -> None:
    x, weights, chosen = torch.randn(1, 32), torch.ones(1, 2), torch.tensor([[0, 3]])
    gate, down = torch.randn(4, 64, 32), torch.randn(4, 32, 64)
    assert kernels.experts(x, weights, chosen, [gate, gate, down]).shape == (1, 32)
    for wrong in ([gate, gate], [gate, gate, gate], [gate, down, down], [gate[:2], gate[:2], down[:2]]):
        with pytest.raises(RuntimeError, match="pureqwen kernels: "):
            kernels.experts(x, weights, chosen, wrong)
    with pytest.raises(RuntimeError, match="experts"):
        kernels.experts(x, weights[:, :1], chosen, [gate, gate, down])


def router(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, a norm's weight, and a router of 24 experts."""
    draw = torch.Generator().manual_seed(3)
    x, weight, gate = (torch.randn(*shape, generator=draw) for shape in ((16, 256), (256,), (24, 256)))
    return x.to(dtype), weight.to(dtype), gate.to(dtype)


@pytest.mark.parametrize("sums_to_one", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_router_chooses_as_its_twin_does(dtype: torch.dtype, sums_to_one: bool) -> None:
    x, weight, gate = router(dtype)
    how: dict[str, Any] = {"eps": 1e-6, "num_experts": 3, "sums_to_one": sums_to_one}
    h, weights, chosen = kernels.route(x, weight, gate, **how)
    assert torch.equal(h, kernels.rms_norm(x, weight, 1e-6))
    _, expected, same = twins.route(x, weight, 1e-6, gate, 3, sums_to_one)
    assert weights.dtype == dtype and chosen.dtype == torch.long
    if dtype == torch.float32:
        assert torch.equal(chosen, same)
        torch.testing.assert_close(weights, expected)
    else:  # the product's last bit may choose another of two that are next to equal
        assert (chosen == same).float().mean() > 0.9
        torch.testing.assert_close(weights, expected, atol=0.02, rtol=0.02)
    for t in range(16):
        alone = kernels.route(x[t : t + 1], weight, gate, **how)
        assert all(torch.equal(a[0], b[t]) for a, b in zip(alone, (h, weights, chosen), strict=True))


def test_of_experts_that_are_equal_the_first_are_chosen_and_a_row_of_no_numbers_harms_none() -> None:
    x, weight, gate = router(torch.float32)
    how: dict[str, Any] = {"eps": 1e-6, "num_experts": 3, "sums_to_one": True}
    _, weights, chosen = kernels.route(x, weight, gate[:1].repeat(24, 1), **how)
    assert chosen.tolist() == [[0, 1, 2]] * 16
    torch.testing.assert_close(weights, torch.full((16, 3), 1 / 3))
    _, weights, chosen = kernels.route(x, weight, gate, **how)
    x[1, 5] = float("nan")
    _, without, same = kernels.route(x, weight, gate, **how)
    rest = [0, *range(2, 16)]
    assert torch.equal(weights[rest], without[rest]) and torch.equal(chosen[rest], same[rest])
    assert without[1].isnan().all() and int(same.min()) >= 0 and int(same.max()) < 24


def test_a_router_that_does_not_fit_is_an_error() -> None:
    x, weight, gate = router(torch.float32)
    for wrong in ((weight[:32], gate, 3), (weight, gate[:, :32], 3), (weight, gate, 25), (weight, gate, 0)):
        with pytest.raises(RuntimeError, match="pureqwen kernels: "):
            kernels.route(x, *wrong[:2], eps=1e-6, num_experts=wrong[2], sums_to_one=True)
