"""Fused blocks: the parameters, names and numbers of the blocks they were made of."""

import copy

import pytest
import torch
from peers import MOE, build, tiny
from torch import nn

from pureqwen import kernels
from pureqwen.cache import PagedCache, StaticAttend, StaticCache
from pureqwen.model import Block, Qwen3
from pureqwen.rewrite import FusedBlock, for_cpu, fuse, quantize, replace
from pureqwen.rewrite import native as native_module
from pureqwen.rewrite.fuse import one_by_one

SHAPES = {"dense": {"head_dim": 32}, "moe": {**MOE, "head_dim": 32}}  # native attention has lines of 32
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


class Steps:
    """The logits of two rows of a cache, after a prompt and two tokens each; made anew by each `run`."""

    def __init__(self, model: Qwen3, kind: str) -> None:
        self.model, self.kind = model, kind

    def cache(self, attends: list[StaticAttend] | None = None) -> StaticCache | PagedCache:
        config, dtype = self.model.config, self.model.model.norm.weight.dtype
        if self.kind == "paged":
            return PagedCache(config, num_pages=4, page_size=8, dtype=dtype)
        return StaticCache(config, batch=2, limit=16, dtype=dtype, attends=attends)

    def run(self, cache: StaticCache | PagedCache | None = None) -> list[torch.Tensor]:
        cache, logits = cache or self.cache(), []
        for cached, ids in (
            (0, [[3, 17, 250, 9, 101], [5, 88, 31, 7, 8]]),
            (5, [[9], [10]]),
            (6, [[11], [200]]),
        ):
            now = len(ids[0])
            if isinstance(cache, PagedCache):
                positions = cache.begin([((0, 1), cached, now), ((2, 3), cached, now)])
            else:
                positions = cache.begin([(cached, now)] * 2)
            logits.append(self.model(torch.tensor(ids).view(positions.shape), positions, cache.attends))
        return logits


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """A list that grows with each call of this function of `kernels`."""
    calls, run = [], getattr(kernels, name)
    monkeypatch.setattr(kernels, name, lambda *args, **kwargs: calls.append(1) or run(*args, **kwargs))
    return calls


@needs_native
@pytest.mark.parametrize("kind", ["static", "paged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", [None, "int8", "int4-g32"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_several_steps_in_one_call_give_the_bits_of_one_after_the_other(
    shape: str, scheme: str | None, dtype: torch.dtype, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = for_cpu(models(shape, scheme)[0].to(dtype))
    steps, names = Steps(model, kind), ("blocks", "attention", "feed_forward")
    calls = {name: counted(monkeypatch, name) for name in names}
    at_once = steps.run()
    dense, num = shape == "dense", len(model.model.layers)
    assert len(calls["blocks"]) >= 2 * dense and bool(calls["attention"]) != dense
    hook = model.model.layers[0].register_forward_hook(lambda *args: None)
    for n in calls.values():
        n.clear()
    by_block = steps.run()
    assert not calls["blocks"] and len(calls["attention"]) >= 2 * num
    assert bool(calls["feed_forward"]) == dense
    hook.remove()
    for n in calls.values():
        n.clear()
    with one_by_one():
        by_operation = steps.run()
    assert not any(calls.values())
    for a, b, c in zip(at_once, by_block, by_operation, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", [None, "int8", "int4-g32"])
@torch.inference_mode()
def test_a_team_of_any_number_of_threads_gives_the_same_bits(scheme: str | None, dtype: torch.dtype) -> None:
    """Of a network wide enough for more than one thread, and over keys of more than one chunk."""
    plain = build(tiny(**SHAPES["dense"], intermediate_size=16384))
    model = for_cpu((quantize(plain, scheme) if scheme else plain).to(dtype))
    ids = torch.arange(300).view(2, 150) % 200

    def run(threads: int) -> list[torch.Tensor]:
        cache = StaticCache(model.config, batch=2, limit=256, dtype=dtype)
        torch.set_num_threads(1)  # PyTorch's product of many rows may depend on how many there are
        model(ids, cache.begin([(0, 150)] * 2), cache.attends)
        torch.set_num_threads(threads)
        logits, at = [], 150
        for count in (1, 7, 1, 5):  # few tokens, and so many that attention takes them in blocks
            step = torch.arange(2 * count).view(2, count)
            logits.append(model(step, cache.begin([(at, count)] * 2), cache.attends))
            at += count
        return logits

    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 8):
            found.append(run(threads))
        for block in model.model.layers:
            block.parts().at_once = False
        found.append(run(2))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


class Doubling(StaticAttend):
    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return 2 * super().__call__(q, k, v)


class Blind(StaticAttend):
    """Sees the last slot only."""

    def sees(self) -> torch.Tensor:
        mask = self.mask.clone()
        mask[..., :-1].masked_fill_(mask[..., 1:] == 0, float("-inf"))
        return mask


@needs_native
@pytest.mark.parametrize("own", [Doubling, Blind])
@torch.inference_mode()
def test_an_attend_of_one_s_own_is_called(own: type[StaticAttend]) -> None:
    plain, fused = models("dense")
    found = []
    for model in (plain, fused):
        steps = Steps(model, "static")
        attends = [own() for _ in range(model.config.num_hidden_layers)]
        found.append((steps.run(), steps.run(steps.cache(attends))))
    (before, expected), (_, got) = found
    for a, b, c in zip(expected[1:], got[1:], before[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert (a - c).abs().mean() > 0.05 * c.abs().mean()


class Halved(nn.Module):
    """A norm of one's own, which has nothing that RMSNorm has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


@needs_native
@torch.inference_mode()
def test_a_norm_of_one_s_own_is_run() -> None:
    plain, fused = models("dense")
    for model in (plain, fused):
        replace(model, "model.layers.*.input_layernorm", lambda _, old: Halved())
    torch.testing.assert_close(fused(torch.arange(9)), plain(torch.arange(9)), rtol=1e-4, atol=1e-4)


@needs_native
@torch.inference_mode()
def test_a_parameter_that_is_put_in_another_s_place_is_read() -> None:
    plain, fused = models("dense")
    steps = Steps(fused, "static")
    before = steps.run()
    for model in (plain, fused):
        up = model.model.layers[1].mlp.up_proj
        up.weight = nn.Parameter(-up.weight.detach())
    for a, b, c in zip(Steps(plain, "static").run(), steps.run(), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert not torch.equal(b, c)


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
@pytest.mark.parametrize(
    "path",
    [
        "layers.1.self_attn", "layers.1.self_attn.q_norm", "layers.1.mlp", "layers.1.mlp.gate_proj",
        "layers.1.input_layernorm", "norm",
    ],
)  # fmt: skip
def test_a_hook_hears_its_part(path: str) -> None:
    _, model = models("dense")
    heard: list[int] = []
    part = model.get_submodule(f"model.{path}")
    part.register_forward_hook(lambda module, args, out: heard.append(1))
    model(torch.arange(5))
    assert heard == [1]


CHANGED = [
    ("dense", "layers.1"), ("dense", "layers.1.self_attn.q_norm"), ("dense", "layers.1.mlp.gate_proj"),
    ("dense", "norm"), ("moe", "layers.1.mlp"), ("moe", "layers.1.mlp.gate"), ("moe", "layers.1.mlp.experts"),
]  # fmt: skip


@needs_native
@pytest.mark.parametrize(("shape", "path"), CHANGED)
@torch.inference_mode()
def test_a_hook_is_heard_that_comes_between_two_steps_and_then_goes(shape: str, path: str) -> None:
    model = for_cpu(models(shape)[0])
    steps, heard = Steps(model, "static"), []
    before = steps.run()
    hook = model.get_submodule(f"model.{path}").register_forward_hook(lambda *args: heard.append(1))
    with_hook = steps.run()
    assert len(heard) == len(before)
    hook.remove()
    for a, b, c in zip(before, with_hook, steps.run(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert torch.equal(a, c)
    assert len(heard) == len(before)


@needs_native
@pytest.mark.parametrize(("shape", "path"), [one for one in CHANGED if "mlp" in one[1] or "attn" in one[1]])
@torch.inference_mode()
def test_a_part_is_run_that_comes_between_two_steps(shape: str, path: str) -> None:
    plain = models(shape)[0]
    model = for_cpu(copy.deepcopy(plain))
    steps = Steps(model, "static")
    before = steps.run()
    for one in (plain, model):
        replace(one, f"model.{path}", lambda _, old: Doubled(old))
    for a, b, c in zip(Steps(plain, "static").run(), steps.run(), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        assert (b - c).abs().mean() > 0.01 * c.abs().mean()


class Doubled(nn.Module):
    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        self.old = old

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = 2 * self.old(*args)
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
