"""Bit for bit the same logits, whatever stands beside a row: neighbours, chunks, what the cache holds."""

from typing import Any

import pytest
import torch
from peers import MOE, build, tiny

from pureqwen import Engine, EngineConfig, Qwen, Qwen3, SamplingParams, kernels
from pureqwen.generate import Row, Sampler
from pureqwen.rewrite import deterministic, for_cpu, quantize
from pureqwen.rewrite.deterministic import product

SHAPES: dict[str, dict[str, Any]] = {
    "dense": {},
    "tied": {"tie_word_embeddings": True},
    "moe": MOE,
    "bias": {"attention_bias": True},
    "odd": {"intermediate_size": 100},  # rows end within a vector, where PyTorch goes on in other code
}
WAYS = ("float32", "bfloat16", "int8", "int4-g32", "int4-g32 of float32")
PROMPT = [*range(40, 60), 5, 5, 88, 31, 7, 64, 190, 2, 44, 121, 13, 6, 99, *range(100, 130)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def model(shape: str, way: str, **changes: Any) -> Qwen3:
    wide = {"head_dim": 32, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
    made = build(tiny(**{**wide, **SHAPES[shape], **changes}))
    if not way.endswith("float32"):
        made.bfloat16()
    scheme = way.removesuffix(" of float32")
    return quantize(made, scheme, head=scheme) if way.startswith("int") else made


class Recorder(Sampler):
    steps: list[torch.Tensor]

    def choose(self, logits: torch.Tensor, **how: Any) -> int:
        self.steps.append(logits.clone())
        return super().choose(logits, **how)


def row(qwen: Qwen, prompt: list[int], params: SamplingParams = GREEDY) -> Row:
    one = qwen.intake.text(prompt, params)
    one.sampler.__class__, one.sampler.steps = Recorder, []  # type: ignore[attr-defined]
    return one


def strangers(qwen: Qwen, count: int) -> list[Row]:
    rows = []
    for n in range(count):
        prompt = [(n * 37 + 11 * at) % 256 for at in range(1 + n * 3 % 50)]
        rows.append(
            row(qwen, prompt, SamplingParams(temperature=1.0, seed=n, max_tokens=2 + n, ignore_eos=True))
        )
    return rows


def logits(rows: list[Row]) -> torch.Tensor:
    return torch.stack([torch.stack(one.sampler.steps) for one in rows])  # type: ignore[attr-defined]


def ways(qwen: Qwen, **fields: Any) -> dict[str, torch.Tensor]:
    """The logits of one prompt's steps: alone, among others, in chunks, found, drafted ahead, preempted."""

    def run(others: int, **more: Any) -> torch.Tensor:
        engine = Engine(qwen, config=EngineConfig(**{"deterministic": True, **fields, **more}))
        rows = [row(qwen, PROMPT) for _ in range(2)]
        engine.run([*strangers(qwen, others), *rows])
        return logits(rows)

    found = {
        "alone": run(0),
        "among 31": run(31),
        "chunks": run(3, step_tokens=16),
        "no sharing": run(5, prefix_caching=False),
        "drafted ahead": run(1, speculative=4),
        "small pages": run(7, page_size=4, cache_tokens=160),
    }
    engine = Engine(qwen, config=EngineConfig(deterministic=True, **fields))
    engine.run([row(qwen, PROMPT[:37])])
    hit = row(qwen, PROMPT)
    engine.run([hit])
    assert hit.num_cached == 32
    return {**found, "hit": logits([hit, hit])}


def assert_the_same_bits(found: dict[str, torch.Tensor]) -> None:
    first = found["alone"]
    assert torch.equal(first[0], first[1])
    different = {name for name, one in found.items() if not torch.equal(one, first)}
    assert not different


CASES = [
    *((shape, way) for shape in ("dense", "moe") for way in WAYS),
    ("tied", "int8"),
    ("bias", "bfloat16"),
]


@pytest.mark.parametrize(("shape", "way"), CASES)
def test_logits_are_the_same_to_the_bit_in_every_way_of_computing_them(shape: str, way: str) -> None:
    assert_the_same_bits(ways(Qwen(model(shape, way))))


@pytest.mark.parametrize(("shape", "way"), [("dense", "float32"), ("dense", "int8"), ("moe", "bfloat16")])
def test_so_they_are_of_a_model_as_it_is_loaded(shape: str, way: str) -> None:
    assert_the_same_bits(ways(Qwen(for_cpu(model(shape, way)))))


@pytest.mark.skipif(kernels.native() is not None, reason=f"no native code: {kernels.native()}")
@torch.inference_mode()
def test_a_row_of_a_product_has_the_same_bits_in_a_crowd_of_any_size() -> None:
    """Large enough that orders of adding show in bfloat16: a tiny model's logits don't tell them apart."""
    torch.manual_seed(0)
    x, weight = torch.randn(24, 1024).bfloat16(), torch.randn(16384, 1024).bfloat16()
    whole = product(x, weight)
    for count in (1, 2, 3, 5, 8, 13):
        assert torch.equal(product(x[24 - count :], weight), whole[24 - count :])
    assert torch.equal(product(x.view(2, 12, 1024), weight).flatten(0, 1), whole)


@torch.inference_mode()
def test_an_expert_of_4_bits_that_gets_many_tokens_adds_them_as_it_adds_one() -> None:
    """All of 40 tokens ask the same two experts: more than native code adds in one order."""
    mixture = deterministic(model("moe", "int4-g32 of float32", hidden_size=512)).model.layers[0].mlp
    experts = mixture.experts  # type: ignore[union-attr]
    torch.manual_seed(0)
    x, weights, chosen = torch.randn(40, 512), torch.rand(40, 2), torch.tensor([[0, 1]]).repeat(40, 1)
    whole = experts(x, weights, chosen)  # type: ignore[operator]
    for count in (1, 3, 16, 17, 33):
        some = experts(x[:count], weights[:count], chosen[:count])  # type: ignore[operator]
        assert torch.equal(some, whole[:count]), count


@pytest.mark.parametrize(
    ("shape", "way"), [("odd", "float32"), ("moe", "float32"), ("dense", "bfloat16"), ("dense", "int4-g32")]
)
def test_without_native_code_too(shape: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "runs", lambda x: False)
    qwen = Qwen(model(shape, way, num_hidden_layers=1))

    def run(others: int, **fields: Any) -> torch.Tensor:
        engine = Engine(qwen, config=EngineConfig(deterministic=True, **fields))
        rows = [row(qwen, PROMPT) for _ in range(2)]
        engine.run([*strangers(qwen, others), *rows])
        return logits(rows)

    assert_the_same_bits({"alone": run(0), "among others": run(5), "chunks": run(0, step_tokens=16)})


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_the_numbers_are_those_of_the_model_and_so_are_the_parameters(shape: str) -> None:
    one = model(shape, "float32")
    expected, before = one(torch.tensor(PROMPT)), dict(one.named_parameters())
    again = deterministic(deterministic(one))
    assert again is one
    after = dict(one.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert (one(torch.tensor(PROMPT)) - expected).abs().max() <= 2e-5 * expected.abs().max()
    assert (one(torch.tensor([PROMPT, PROMPT])) - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_it_still_learns() -> None:
    one = deterministic(model("moe", "float32"))
    one(torch.arange(5)).sum().backward()
    assert all(parameter.grad is not None for parameter in one.parameters())


def test_a_model_elsewhere_than_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="deterministic is for CPUs: this model is on meta"):
        deterministic(model("dense", "float32").to("meta"))
