"""Finding modules by path, and putting others in their place."""

import pytest
import torch
from peers import VARIANTS, build, tiny
from torch import Tensor, nn

from pureqwen.model import MLP, Qwen3
from pureqwen.rewrite import find, replace

MLPS = "model.layers.*.mlp"


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Scaled(nn.Module):
    """What was there, and a parameter more."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.inner(x)


def test_a_glob_finds_each_layer_s_module_under_its_path() -> None:
    model = Qwen3(tiny())
    assert list(find(model, MLPS)) == [f"model.layers.{n}.mlp" for n in range(4)]
    assert list(find(model, "model.layers.[0-1].mlp")) == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert len(find(model, "model.layers.*.self_attn.[qk]_proj")) == 8
    assert find(model, "lm_head") == {"lm_head": model.lm_head}


def test_a_star_does_not_reach_over_a_dot() -> None:
    model = Qwen3(tiny())
    assert list(find(model, "model.*")) == ["model.embed_tokens", "model.layers", "model.norm"]
    with pytest.raises(ValueError, match="no module's path fits"):
        find(model, "*.mlp")


@pytest.mark.parametrize("pattern", ["model.layer.*.mlp", "layers.*.mlp", "model.layers.*.MLP", "mlp", ""])
def test_a_pattern_that_fits_nothing_is_a_value_error_that_names_it_and_paths_that_exist(
    pattern: str,
) -> None:
    with pytest.raises(ValueError) as error:
        replace(Qwen3(tiny()), pattern, lambda path, old: old)
    assert repr(pattern) in str(error.value)
    if "mlp" in pattern.lower():
        assert MLPS in str(error.value)


def test_each_module_is_replaced_by_what_its_path_and_itself_make() -> None:
    model = build(tiny())
    ids = torch.arange(6)
    before, seen = model(ids), []

    def make(path: str, old: nn.Module) -> nn.Module:
        seen.append(path)
        assert isinstance(old, MLP)
        return Scaled(old) if path.endswith("2.mlp") else old

    assert replace(model, MLPS, make) is model
    assert seen == list(find(model, MLPS))
    assert [name for name, _ in model.named_parameters() if name.endswith("scale")] == [
        "model.layers.2.mlp.scale"
    ]
    assert torch.equal(model(ids), before)
    with torch.no_grad():
        model.model.layers[2].mlp.scale.fill_(2)
    assert not torch.equal(model(ids), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_without_feed_forward_networks_still_runs(variant: str) -> None:
    model = replace(build(tiny(**VARIANTS[variant])), MLPS, lambda path, old: Nothing())
    assert model(torch.arange(5)).isfinite().all()
    assert not [name for name, _ in model.named_parameters() if ".mlp." in name]


def test_on_the_meta_device_what_is_made_takes_no_memory() -> None:
    with torch.device("meta"):
        model = Qwen3(tiny())
    replace(model, MLPS, lambda path, old: MLP(64, 1000))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.empty(1).device.type == "cpu"


def test_on_a_loaded_model_what_is_made_has_its_dtype_and_its_mode() -> None:
    model = build(tiny()).bfloat16().eval()
    replace(model, MLPS, lambda path, old: nn.Sequential(nn.Dropout(0.9), MLP(64, 32)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())
    assert torch.get_default_dtype() == torch.float32
    replace(model.train(), MLPS, lambda path, old: Nothing())
    assert all(module.training for module in model.modules())


def test_the_default_dtype_comes_back_also_when_making_fails() -> None:
    def fail(path: str, old: nn.Module) -> nn.Module:
        assert torch.empty(1).dtype == torch.bfloat16
        raise KeyError(path)

    with pytest.raises(KeyError):
        replace(build(tiny()).bfloat16(), MLPS, fail)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("wrong", [None, 3, MLP])
def test_what_is_no_module_is_refused_and_nothing_is_replaced(wrong: object) -> None:
    model = Qwen3(tiny())
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=r"make returned .* for model\.layers\.0\.mlp"):
        replace(model, MLPS, lambda path, old: wrong)  # type: ignore[arg-type, return-value]
    assert dict(model.named_modules()) == before


def test_a_module_at_several_paths_is_replaced_by_one_at_all_of_them() -> None:
    model = build(tiny())
    one = MLP(64, 32)
    replace(model, MLPS, lambda path, old: one)
    made = []

    def make(path: str, old: nn.Module) -> nn.Module:
        made.append(path)
        return Scaled(old)

    replace(model, MLPS, make)
    assert made == ["model.layers.0.mlp"]
    assert len({id(layer.mlp) for layer in model.model.layers}) == 1
    replace(model, "model.layers.3.mlp", lambda path, old: Nothing())
    assert [type(layer.mlp) for layer in model.model.layers] == [Scaled, Scaled, Scaled, Nothing]


def test_a_tied_head_stays_tied_whichever_of_the_two_is_replaced() -> None:
    model = build(tiny(tie_word_embeddings=True))
    matrix = model.model.embed_tokens.weight
    replace(model, "lm_head", lambda path, old: nn.Linear(64, 256, bias=False))
    assert model.lm_head.weight is matrix
    replace(model, "model.embed_tokens", lambda path, old: nn.Embedding(256, 64))
    assert model.model.embed_tokens.weight is matrix
    replace(model, "lm_head", lambda path, old: Scaled(old))
    assert model.lm_head.inner.weight is matrix


def test_a_new_module_without_a_place_for_a_shared_parameter_is_refused() -> None:
    model = build(tiny(tie_word_embeddings=True))
    for wrong in (Nothing(), nn.Linear(64, 300, bias=False)):
        with pytest.raises(ValueError, match=r"lm_head\.weight is shared .* of shape \(256, 64\)"):
            replace(model, "lm_head", lambda path, old, new=wrong: new)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    replace(build(tiny()), "lm_head", lambda path, old: Nothing())  # untied: nothing is lost
