"""Models in 8 and 4 bits: what is rounded, what stays, and that every way to compute and keep them agrees."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peers import MOE, build, tiny
from torch import nn

from pureqwen import Qwen, Qwen3, kernels, load
from pureqwen.cache import StaticCache
from pureqwen.config.quantization import SCHEMES, schemes_in
from pureqwen.rewrite import find, for_cpu, quantize
from pureqwen.rewrite.quantize import Int4Linear, Int8Linear
from pureqwen.weights import WeightError, load_model, quantised_structure

NAMES = list(SCHEMES)
SHAPES = {"dense": {"intermediate_size": 128}, "tied": {"tie_word_embeddings": True}, "moe": MOE}


def fitting(scheme: str, **changes: object) -> Qwen3:
    """A tiny model whose rows divide into the groups of a scheme."""
    wide = {"hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 128}
    if "num_experts" in changes:
        changes["moe_intermediate_size"] = 128
    assert scheme in SCHEMES
    return build(tiny(**{**changes, **wide}))


@pytest.mark.parametrize("scheme", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_weights_are_the_nearest_that_the_scheme_has(scheme: str, shape: str) -> None:
    plain = fitting(scheme, **SHAPES[shape])
    weights = {name: value.clone() for name, value in plain.state_dict().items()}
    quantised = quantize(plain, scheme)
    layer = quantised.get_submodule("model.layers.2.self_attn.q_proj")
    assert isinstance(layer, Int8Linear if scheme == "int8" else Int4Linear)
    wanted = weights["model.layers.2.self_attn.q_proj.weight"]
    step = layer.weight_scale.repeat_interleave(wanted.shape[1] // layer.weight_scale.shape[1], dim=1)
    q = layer.dequantized() / step
    at_an_end = (q.round() == -8) | (q.round() == 7)  # 4 bits may cut the largest ones short
    near = (layer.dequantized() - wanted).abs() <= step.abs() * 0.5001
    assert bool((near | (at_an_end if scheme != "int8" else False)).all())
    for name in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.1.self_attn.k_norm.weight"):
        assert torch.equal(quantised.state_dict()[name], weights[name])
    if shape == "moe":
        assert type(quantised.get_submodule("model.layers.0.mlp.gate")) is nn.Linear


@pytest.mark.parametrize("group", [32, 64, 128])
def test_a_group_loses_less_than_by_the_largest_weight_alone(group: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 256)
    made = Int4Linear(256, 50, group=group, dtype=torch.float32)
    for name, value in Int4Linear.made(weight, group).items():
        setattr(made, name, nn.Parameter(value, requires_grad=False))
    wide = weight.view(50, -1, group)
    scale = wide.abs().amax(-1, keepdim=True) / 7.5
    usual = ((wide / scale).round().clamp(-8, 7) * scale - wide).square().mean()
    assert (made.dequantized() - weight).square().mean() < 0.85 * usual


@pytest.mark.parametrize("scheme", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_its_logits_are_those_of_the_weights_it_stands_for(scheme: str, shape: str) -> None:
    """Up to what whole activations cost, which is far less than what the weights lost."""
    quantised, ids = quantize(fitting(scheme, **SHAPES[shape]), scheme), torch.arange(40) % 11
    meant = fitting(scheme, **{**SHAPES[shape], "tie_word_embeddings": False})
    for name, module in meant.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("mlp.gate"):
            twin = quantised.get_submodule(name)
            assert isinstance(twin, Int8Linear | Int4Linear)
            module.weight.copy_(twin.dequantized())
    if shape == "moe":
        for path, experts in find(meant, "model.layers.*.mlp.experts").items():
            for part in ("gate_proj", "up_proj", "down_proj"):
                each = find(quantised, f"{path}.*.{part}").values()
                getattr(experts, part).copy_(torch.stack([one.dequantized() for one in each]))  # type: ignore[operator]
    alike = torch.nn.functional.cosine_similarity(quantised(ids), meant(ids), dim=-1)
    # A router without training may send a token to other experts for a rounding: most tokens, not all.
    assert (alike.median() if shape == "moe" else alike.min()) > 0.99


@pytest.mark.parametrize("scheme", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_saved_and_reloaded_it_is_the_same_and_its_weights_are_views_of_the_file(
    scheme: str, shape: str, tmp_path: Path
) -> None:
    qwen = Qwen(for_cpu(quantize(fitting(scheme, **SHAPES[shape]), scheme)))
    qwen.save(tmp_path)
    again = load(tmp_path)
    assert again.config == qwen.config and again.config.quantization_config is not None
    assert not again.config.tie_word_embeddings
    assert list(again.model.state_dict()) == list(qwen.model.state_dict())
    assert all(map(torch.equal, again.model.state_dict().values(), qwen.model.state_dict().values()))
    ids = torch.tensor([3, 1, 4, 1, 5])
    with torch.inference_mode():
        assert torch.equal(again.model(ids), qwen.model(ids))


@pytest.mark.parametrize("scheme", NAMES)
def test_a_head_that_is_left_stays_tied(scheme: str, tmp_path: Path) -> None:
    model = quantize(fitting(scheme, tie_word_embeddings=True), scheme, head=None)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    Qwen(model).save(tmp_path)
    again = load(tmp_path).model
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert schemes_in(again.config.quantization_config or {}) == (SCHEMES[scheme], None)


@pytest.fixture
def few() -> Iterator[list[int]]:
    yield [7, 3, 250, 9, 101, 44, 2]


@pytest.mark.parametrize("scheme", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_with_a_cache_it_says_what_it_says_without(scheme: str, shape: str, few: list[int]) -> None:
    """Activations that differ in the last bit may be rounded to neighbouring whole numbers, no further."""
    model = quantize(fitting(scheme, **SHAPES[shape]), scheme)
    full = model(torch.tensor(few))
    assert len(set(full.argmax(-1).tolist())) > 2
    for chunk in (1, 3):
        cache, steps = StaticCache(model.config, limit=16), []
        for start in range(0, len(few), chunk):
            part = few[start : start + chunk]
            positions = cache.begin([(start, len(part))])
            steps.append(model(torch.tensor([part]), positions, cache.attends)[0])
        same = torch.cat(steps).argmax(-1) == full.argmax(-1)
        if shape == "moe":  # a router without training may take another expert for it
            assert same.float().mean() > 0.7
            continue
        assert bool(same.all())
        assert (torch.cat(steps) - full).abs().max() <= 0.03 * full.abs().max()


@pytest.mark.skipif(kernels.native() is not None, reason=f"no native code: {kernels.native()}")
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_native_code_and_its_twin_give_the_same_bits(
    shape: str, few: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantize(fitting("int8", **SHAPES[shape]), "int8")
    native = model(torch.tensor(few))
    monkeypatch.setattr(kernels, "_ready", lambda: False)
    assert torch.equal(model(torch.tensor(few)), native)


def test_transformers_reads_what_we_write(tmp_path: Path, few: list[int]) -> None:
    pytest.importorskip("compressed_tensors", reason="reading it back needs compressed-tensors (make setup)")
    from transformers import AutoModelForCausalLM

    for scheme in NAMES:
        for head in ("int8", None):
            folder = tmp_path / f"{scheme} {head}"
            model = quantize(fitting(scheme, tie_word_embeddings=True), scheme, head=head)
            Qwen(model).save(folder)
            theirs = AutoModelForCausalLM.from_pretrained(folder)
            with torch.inference_mode():
                expected, got = theirs(torch.tensor([few])).logits[0], model(torch.tensor(few))
            for path in ("model.layers.1.self_attn.q_proj", "model.layers.3.mlp.down_proj"):
                ours = model.get_submodule(path)
                assert isinstance(ours, Int8Linear | Int4Linear)
                assert torch.equal(theirs.get_submodule(path).weight, ours.dequantized())
            assert torch.nn.functional.cosine_similarity(got, expected, dim=-1).min() > 0.99, (scheme, head)


def test_what_can_t_be_quantised_is_said() -> None:
    with pytest.raises(ValueError, match="scheme 'int5' is unknown; there are int8, int4-g32"):
        quantize(fitting("int8"), "int5")
    with pytest.raises(ValueError, match="rows of 96 weights can't be cut into groups of 64"):
        quantize(build(tiny(hidden_size=96)), "int4-g64")
    narrow = build(tiny(hidden_size=64, intermediate_size=96))
    with pytest.raises(ValueError, match="rows of 96"):
        quantize(narrow, "int4-g64")
    quantize(narrow, "int4-g32")  # nothing was changed before
    with pytest.raises(ValueError, match="quantised already"):
        quantize(quantize(fitting("int8"), "int8"), "int8")
    with pytest.raises(ValueError, match="attention_bias"):
        quantize(build(tiny(attention_bias=True)), "int8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_bits": 3}, "3-bit int by channel; read are int8"),
        ({"type": "float"}, "8-bit float by channel"),
        ({"symmetric": False}, "zero points"),
        ({"num_bits": None}, "None-bit"),
        ({"strategy": "group", "group_size": 48}, "by group of 48"),
    ],
)
def test_another_format_is_refused_by_what_it_is(change: dict[str, object], words: str) -> None:
    config = quantize(fitting("int8"), "int8").config
    content = config.quantization_config or {}
    content["config_groups"]["group_0"]["weights"].update(change)
    with pytest.raises(WeightError, match=words):
        quantised_structure(config, "some/model")


def test_weights_of_another_dtype_than_the_config_says_are_refused(tmp_path: Path) -> None:
    plain = fitting("int8")
    Qwen(plain).save(tmp_path)
    config = quantize(fitting("int8"), "int8", head=None).config
    with pytest.raises(WeightError, match=r"quantised tensors have another dtype: .*must be torch\.int8"):
        load_model(tmp_path, config)


def test_an_unknown_section_is_no_crash() -> None:
    config = replace(tiny(), quantization_config={"quant_method": "compressed-tensors", "config_groups": []})
    with pytest.raises(WeightError, match="compressed-tensors"):
        quantised_structure(config, "some/model")
