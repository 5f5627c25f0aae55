"""Fused blocks: the parameters, names and numbers of the blocks they were made of."""

import copy

import pytest
import torch
from peers import MOE, build, tiny
from torch import nn

from pureqwen import kernels
from pureqwen.cache import StaticCache
from pureqwen.model import Block, Qwen3
from pureqwen.rewrite import FusedBlock, for_cpu, fuse, quantize, replace
from pureqwen.rewrite import native as native_module

SHAPES = {"dense": {}, "moe": MOE}
needs_native = pytest.mark.skipif(kernels.native() is not None, reason=f"no native code: {kernels.native()}")


def models(shape: str, scheme: str | None = None) -> tuple[Qwen3, Qwen3]:
    """A model, and the same with fused blocks."""
    plain = build(tiny(**SHAPES[shape]))
    if scheme:
        plain = quantize(plain, scheme)
    return plain, fuse(copy.deepcopy(plain))


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_and_names_stay(shape: str) -> None:
    model = build(tiny(**SHAPES[shape]))
    before = dict(model.named_parameters())
    after = dict(fuse(model).named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert all(type(block) is FusedBlock for block in model.model.layers)


@needs_native
@pytest.mark.parametrize("scheme", [None, "int8", "int4-g32"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_logits_are_those_of_the_blocks_up_to_rounding(shape: str, scheme: str | None) -> None:
    plain, fused = models(shape, scheme)
    for ids in (torch.arange(12) * 5, torch.arange(40).view(2, 20)):
        expected, got = plain(ids), fused(ids)
        if scheme:  # a number that lies between two whole ones may be rounded to either
            assert (got - expected).abs().mean() <= 0.02 * expected.abs().mean()
        else:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", [None, "int8", "int4-g32"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_several_steps_in_one_call_give_the_bits_of_one_after_the_other(
    shape: str, scheme: str | None, dtype: torch.dtype
) -> None:
    model = for_cpu(models(shape, scheme)[0].to(dtype))
    ids = torch.arange(kernels.FEW) * 5
    at_once = model(ids)
    assert all(block.parts().at_once for block in model.model.layers)
    for block in model.model.layers:
        block.parts().at_once = False
    assert torch.equal(model(ids), at_once)


@needs_native
@torch.inference_mode()
def test_in_bfloat16_the_error_is_no_larger_than_the_blocks() -> None:
    plain, ids = build(tiny()), torch.arange(60)
    exact = copy.deepcopy(plain).to(torch.bfloat16).double()(ids)
    plain = plain.to(torch.bfloat16)
    error, ours = ((m(ids).double() - exact).abs().mean() for m in (plain, fuse(copy.deepcopy(plain))))
    assert ours <= 1.1 * error


@needs_native
@torch.inference_mode()
def test_a_cache_and_a_batch_of_fused_blocks_give_what_one_forward_gives() -> None:
    _, model = models("dense")
    texts = [[3, 17, 250, 9, 101, 7, 8], [5, 88, 31]]
    cache = StaticCache(model.config, batch=2, limit=32)
    done = [0, 0]
    for now in ([4, 2], [1, 1], [2, 0]):
        pieces = [text[n : n + m] for text, n, m in zip(texts, done, now, strict=True)]
        positions = cache.begin(list(zip(done, now, strict=True)))
        ids = torch.tensor([piece + [0] * (max(now) - len(piece)) for piece in pieces])
        logits = model(ids, positions, cache.attends)
        for row, (text, n, m) in enumerate(zip(texts, done, now, strict=True)):
            expected = model(torch.tensor(text[: n + m]))[n : n + m]
            torch.testing.assert_close(logits[row, :m], expected, rtol=1e-4, atol=1e-4)
        done = [n + m for n, m in zip(done, now, strict=True)]


@needs_native
@torch.inference_mode()
def test_it_is_the_fused_way_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = models("dense")
    monkeypatch.setattr(Block, "forward", None)
    model(torch.arange(5))


@needs_native
@torch.inference_mode()
@pytest.mark.parametrize("path", ["self_attn", "self_attn.q_norm", "mlp", "mlp.gate_proj", "input_layernorm"])
def test_a_hook_hears_its_part(path: str) -> None:
    _, model = models("dense")
    heard: list[int] = []
    part = model.get_submodule(f"model.layers.1.{path}")
    part.register_forward_hook(lambda module, args, out: heard.append(1))
    model(torch.arange(5))
    assert heard == [1]


class Doubled(nn.Module):
    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        self.old = old

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = 2 * self.old(x)
        return y


@needs_native
@pytest.mark.parametrize("scheme", [None, "int8"])
@pytest.mark.parametrize("pattern", ["self_attn.v_proj", "mlp.up_proj", "mlp.down_proj", "mlp"])
@torch.inference_mode()
def test_a_part_of_one_s_own_is_run(pattern: str, scheme: str | None) -> None:
    plain, fused = models("dense", scheme)
    before = fused(torch.arange(9))
    for model in (plain, fused):
        replace(model, f"model.layers.*.{pattern}", lambda _, old: Doubled(old))
    expected, got = plain(torch.arange(9)), fused(torch.arange(9))
    assert (got - expected).abs().mean() <= (0.02 if scheme else 1e-5) * expected.abs().mean()
    assert (got - before).abs().mean() > 0.1 * before.abs().mean()


def test_it_still_learns() -> None:
    model = for_cpu(build(tiny()))
    model(torch.arange(5)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_native_code_the_model_stays_and_a_large_one_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "native", lambda: "there is no C++ compiler")
    model = for_cpu(build(tiny()))
    assert type(model.model.layers[0]) is Block and not caplog.text
    monkeypatch.setattr(native_module, "LARGE", 10)
    for_cpu(model)
    assert "no native code here" in caplog.text and "there is no C++ compiler" in caplog.text
