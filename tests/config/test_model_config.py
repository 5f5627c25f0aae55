"""ModelConfig: what it reads, what it refuses, what it writes, what it counts."""

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from pureqwen.config import ModelConfig, RopeScaling, UnsupportedModel

Config = dict[str, Any]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def without(config: Config, *names: str) -> Config:
    return {key: value for key, value in config.items() if key not in names}


# --- transformers 4's and 5's spellings (PITFALLS 4) ---


def test_both_spellings_of_transformers_give_the_same_config(moe: Config) -> None:
    four = {**moe, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}}
    five = without(moe, "rope_theta", "rope_scaling", "num_experts", "torch_dtype") | {
        "rope_parameters": {**YARN, "rope_theta": 1000000},
        "num_local_experts": 8,
        "dtype": "bfloat16",
    }
    assert ModelConfig.from_dict(four) == ModelConfig.from_dict(five)
    assert ModelConfig.from_dict(five).num_experts == 8


def test_rope_parameters_nested_by_layer_type_are_read(dense: Config) -> None:
    nested = without(dense, "rope_theta", "rope_scaling") | {
        "rope_parameters": {"full_attention": {**YARN, "rope_theta": 5e6}}
    }
    config = ModelConfig.from_dict(nested)
    assert config.rope_theta == 5e6
    assert config.rope_scaling is not None and config.rope_scaling.factor == 4.0


@pytest.mark.parametrize(
    "extra",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000}},
        {"dtype": "float32"},
        {"num_local_experts": 4},
        {"rope_scaling": YARN, "rope_parameters": {**YARN, "factor": 2.0}},
        {"rope_scaling": {**YARN, "type": "linear"}},
        {"rope_scaling": YARN, "original_max_position_embeddings": 64},
    ],
)
def test_two_spellings_that_contradict_each_other_are_refused(moe: Config, extra: Config) -> None:
    with pytest.raises(ValueError, match="contradicts itself"):
        ModelConfig.from_dict({**moe, **extra})


def test_two_spellings_that_agree_are_one(moe: Config) -> None:
    both = {**moe, "dtype": "bfloat16", "num_local_experts": 8, "rope_parameters": {"rope_theta": 1e6}}
    assert ModelConfig.from_dict(both) == ModelConfig.from_dict(moe)
    yarn = {"rope_scaling": YARN, "rope_parameters": {"rope_theta": 1e6}}
    assert ModelConfig.from_dict({**moe, **yarn}) == ModelConfig.from_dict({**moe, "rope_scaling": YARN})


@pytest.mark.parametrize("extra", [{}, {"rope_theta": None}, {"rope_parameters": {"rope_type": "default"}}])
def test_a_missing_rope_theta_is_an_error_not_ten_thousand(dense: Config, extra: Config) -> None:
    with pytest.raises(ValueError, match="no rope_theta"):
        ModelConfig.from_dict(without(dense, "rope_theta") | extra)


@pytest.mark.parametrize("name", ["bfloat16", "torch.float32", "float16"])
def test_the_dtype_is_read_with_and_without_torch_before_it(dense: Config, name: str) -> None:
    assert ModelConfig.from_dict({**dense, "torch_dtype": name}).torch_dtype == name.removeprefix("torch.")


# --- YaRN (PITFALLS 12) ---


def test_yarn_takes_its_own_factor_and_not_the_ratio_of_the_lengths(dense: Config) -> None:
    config = ModelConfig.from_dict({**dense, "rope_scaling": {**YARN, "factor": 2.5}})
    assert config.rope_scaling == RopeScaling(factor=2.5, original_max_position_embeddings=128)


def test_yarn_stretches_the_context_though_the_file_names_the_old_one(dense: Config) -> None:
    """Qwen's model cards add rope_scaling and leave max_position_embeddings."""
    config = ModelConfig.from_dict({**dense, "max_position_embeddings": 160, "rope_scaling": YARN})
    assert config.context_length == 4 * 128
    assert ModelConfig.from_dict({**dense, "max_position_embeddings": 160}).context_length == 160
    longer = ModelConfig.from_dict({**dense, "max_position_embeddings": 1000, "rope_scaling": YARN})
    assert longer.context_length == 1000


def test_yarn_without_the_original_length_takes_the_context_as_transformers_does(dense: Config) -> None:
    scaling = ModelConfig.from_dict(
        {**dense, "rope_scaling": without(YARN, "original_max_position_embeddings")}
    )
    assert scaling.rope_scaling is not None
    assert scaling.rope_scaling.original_max_position_embeddings == 512
    beside = {"rope_scaling": {"rope_type": "yarn", "factor": 4}, "original_max_position_embeddings": 64}
    scaling = ModelConfig.from_dict({**dense, **beside})
    assert scaling.rope_scaling is not None
    assert scaling.rope_scaling.original_max_position_embeddings == 64


@pytest.mark.parametrize("kind", [None, {}, {"rope_type": "default"}, {"type": "default"}])
def test_a_file_that_asks_for_no_scaling_gets_none(dense: Config, kind: Any) -> None:
    assert ModelConfig.from_dict({**dense, "rope_scaling": kind}).rope_scaling is None


@pytest.mark.parametrize("kind", ["linear", "dynamic", "longrope", "llama3", "mrope", "", 3, ["yarn"]])
def test_an_unknown_rope_type_is_never_ignored(dense: Config, kind: Any) -> None:
    with pytest.raises(ValueError, match="rope_type"):
        ModelConfig.from_dict({**dense, "rope_scaling": {**YARN, "rope_type": kind}})


def test_a_scaling_without_its_kind_is_never_ignored(dense: Config) -> None:
    with pytest.raises(ValueError, match="no rope_type"):
        ModelConfig.from_dict({**dense, "rope_scaling": {"factor": 4.0}})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"factor": 0.5}, "factor"),
        ({"factor": math.nan}, "factor"),
        ({"factor": "4"}, "factor"),
        ({"factor": True}, "factor"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
        ({"original_max_position_embeddings": 128.0}, "original_max_position_embeddings"),
        ({"attention_factor": math.inf}, "attention_factor"),
        ({"beta_fast": 0.5}, "beta_fast"),
        ({"beta_slow": 0}, "beta_slow"),
        ({"mscale": -1}, "mscale"),
        ({"truncate": 1}, "truncate"),
        ({"mrope_section": [16, 24, 24]}, "mrope_section"),
    ],
)
def test_a_value_of_yarn_out_of_range_is_named(dense: Config, change: Config, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_dict({**dense, "rope_scaling": {**YARN, **change}})


def test_a_scaling_of_another_kind_is_refused_from_python_too() -> None:
    with pytest.raises(ValueError, match="rope_type is 'linear'"):
        RopeScaling(rope_type="linear", factor=2.0, original_max_position_embeddings=128)


def test_yarn_without_a_factor_is_an_error(dense: Config) -> None:
    with pytest.raises(ValueError, match="factor"):
        ModelConfig.from_dict({**dense, "rope_scaling": without(YARN, "factor")})


def test_a_null_factor_is_the_ratio_of_the_lengths_as_in_transformers(dense: Config) -> None:
    config = ModelConfig.from_dict({**dense, "rope_scaling": {**YARN, "factor": None}})
    assert config.rope_scaling is not None and config.rope_scaling.factor == 4.0


def test_a_scaling_that_is_no_dictionary_is_refused(dense: Config) -> None:
    with pytest.raises(ValueError, match="rope_scaling"):
        ModelConfig.from_dict({**dense, "rope_scaling": "yarn"})
    with pytest.raises(ValueError, match="full_attention"):
        ModelConfig.from_dict({**dense, "rope_parameters": {"full_attention": 3}})
    with pytest.raises(ValueError, match="rope_scaling"):
        dataclasses.replace(ModelConfig.from_dict(dense), rope_scaling=YARN)  # type: ignore[arg-type]


# --- what is left out (PITFALLS 1, 5) ---


def test_head_dim_is_never_hidden_size_over_heads(dense: Config, moe: Config) -> None:
    transformers = pytest.importorskip("transformers")
    assert ModelConfig.from_dict(dense).head_dim == 32  # not 64 / 4
    bare = without(dense, "head_dim")
    assert ModelConfig.from_dict(bare).head_dim == transformers.Qwen3Config(**bare).head_dim == 128
    with pytest.raises(ValueError, match="head_dim is missing"):
        ModelConfig.from_dict(without(moe, "head_dim"))


def test_what_a_file_leaves_out_is_what_transformers_takes(dense: Config, moe: Config) -> None:
    transformers = pytest.importorskip("transformers")
    for config, theirs in ((dense, transformers.Qwen3Config), (moe, transformers.Qwen3MoeConfig)):
        ours, twin = ModelConfig.from_dict(config), theirs(**config)
        for name in ("rms_norm_eps", "tie_word_embeddings", "attention_bias", "initializer_range"):
            assert getattr(ours, name) == getattr(twin, name), name
        if ours.num_experts:
            for name in ("norm_topk_prob", "decoder_sparse_step", "router_aux_loss_coef"):
                assert getattr(ours, name) == getattr(twin, name), name
            assert list(ours.mlp_only_layers) == twin.mlp_only_layers
            assert ours.norm_topk_prob is False


def test_a_null_count_of_key_heads_means_as_many_as_heads(dense: Config) -> None:
    assert ModelConfig.from_dict({**dense, "num_key_value_heads": None}).num_key_value_heads == 4


@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"]
)
def test_a_size_that_is_missing_is_named(dense: Config, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is missing"):
        ModelConfig.from_dict(without(dense, name))


@pytest.mark.parametrize("name", ["num_experts", "num_experts_per_tok", "moe_intermediate_size"])
def test_a_size_of_the_experts_that_is_missing_is_named(moe: Config, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} .*missing|{name} is missing"):
        ModelConfig.from_dict(without(moe, name))


# --- what is another model ---


def test_the_36_configs_are_read_and_qwen3_next_is_refused_by_name(official: dict[str, Config]) -> None:
    next_80b = official.pop("Qwen3-Next-80B-A3B-Instruct")
    assert len(official) == 36
    for name, config in official.items():
        read = ModelConfig.from_dict(config)
        for field in dataclasses.fields(read):
            if field.name in config and field.name != "mlp_only_layers":
                assert getattr(read, field.name) == config[field.name], (name, field.name)
    with pytest.raises(UnsupportedModel, match=r"qwen3_next.*Qwen3NextForCausalLM.*supported are Qwen3"):
        ModelConfig.from_dict(next_80b)


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        {"architectures": ["LlamaForCausalLM"]},
        {"model_type": "llama"},
        {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next"},
        {"architectures": ["Qwen3ForGuardModel"]},
        {"architectures": ["Qwen3MoeForCausalLM"]},
    ],
)
def test_an_architecture_that_is_not_qwen3_names_what_was_found_and_what_works(
    dense: Config, change: Config
) -> None:
    with pytest.raises(UnsupportedModel, match="supported are Qwen3 and Qwen3-MoE") as error:
        ModelConfig.from_dict({**dense, **change})
    for found in change.values():
        assert (found[0] if isinstance(found, list) else str(found)) in str(error.value)


def test_a_config_that_names_no_architecture_is_refused(dense: Config) -> None:
    with pytest.raises(UnsupportedModel, match="neither model_type nor architectures"):
        ModelConfig.from_dict(without(dense, "architectures", "model_type"))


@pytest.mark.parametrize(
    "change", [{"model_type": ["qwen3"]}, {"architectures": "Qwen3"}, {"architectures": [1]}]
)
def test_names_of_the_wrong_type_are_value_errors(dense: Config, change: Config) -> None:
    with pytest.raises(ValueError, match="it must be"):
        ModelConfig.from_dict({**dense, **change})


@pytest.mark.parametrize("name", ["Qwen3Model", "Qwen3ForCausalLM"])
def test_an_embedding_checkpoint_without_a_head_is_a_qwen3_model(dense: Config, name: str) -> None:
    assert ModelConfig.from_dict({**dense, "architectures": [name]}).model_type == "qwen3"
    assert (
        ModelConfig.from_dict(without(dense, "model_type") | {"architectures": [name]}).model_type == "qwen3"
    )
    assert ModelConfig.from_dict(without(dense, "architectures")).model_type == "qwen3"


@pytest.mark.parametrize(
    "change",
    [
        {"use_sliding_window": True, "sliding_window": 4096},
        {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
        {"hidden_act": "gelu"},
        {"partial_rotary_factor": 0.25},
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "partial_rotary_factor": 0.25}},
        {"use_qk_norm": False},
        {"qkv_bias": True},
        {"shared_expert_intermediate_size": 512},
    ],
)
def test_a_switch_that_is_not_computed_here_is_refused(dense: Config, change: Config) -> None:
    with pytest.raises(UnsupportedModel, match=r"only .* is computed here"):
        ModelConfig.from_dict({**dense, **change})


def test_a_sliding_window_that_is_off_is_fine(dense: Config) -> None:
    off = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 2}
    assert (
        ModelConfig.from_dict({**dense, **off, "layer_types": ["full_attention"] * 4}).num_hidden_layers == 4
    )
    with pytest.raises(ValueError, match="one entry per layer"):
        ModelConfig.from_dict({**dense, "layer_types": ["full_attention"]})


# --- values ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", True),
        ("hidden_size", -64),
        ("hidden_size", 64.0),
        ("hidden_size", "64"),
        ("hidden_size", None),
        ("intermediate_size", 2**31),
        ("num_hidden_layers", 10**12),
        ("num_attention_heads", 5),
        ("num_key_value_heads", 3),
        ("head_dim", 33),
        ("rope_theta", math.nan),
        ("rope_theta", math.inf),
        ("rope_theta", 10**400),
        ("rope_theta", 1),
        ("rope_theta", "1e6"),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", -1e-6),
        ("initializer_range", math.nan),
        ("tie_word_embeddings", 1),
        ("attention_bias", "false"),
        ("torch_dtype", "int8"),
        ("torch_dtype", ["float32"]),
        ("bos_token_id", -1),
        ("pad_token_id", 1.5),
        ("eos_token_id", True),
        ("eos_token_id", [1, -2]),
        ("eos_token_id", "2"),
        ("quantization_config", "fp8"),
        ("num_experts", 8),
    ],
)
def test_a_value_that_is_wrong_is_named(dense: Config, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name.replace("num_attention_heads", "num_key_value_heads")):
        ModelConfig.from_dict({**dense, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_experts", 0),
        ("num_experts", 1),
        ("num_experts_per_tok", 9),
        ("num_experts_per_tok", 0),
        ("moe_intermediate_size", 0),
        ("norm_topk_prob", 1),
        ("decoder_sparse_step", 0),
        ("mlp_only_layers", [4]),
        ("mlp_only_layers", [-1]),
        ("mlp_only_layers", 2),
        ("router_aux_loss_coef", math.nan),
    ],
)
def test_a_value_of_the_experts_that_is_wrong_is_named(moe: Config, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}|num_experts"):
        ModelConfig.from_dict({**moe, name: value})


def test_something_that_is_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON object"):
        ModelConfig.from_dict(["qwen3"])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match="llama"):
        dataclasses.replace(ModelConfig.preset("Qwen3-0.6B"), model_type="llama")


def test_a_config_can_be_a_key_and_cannot_be_changed(dense: Config) -> None:
    config = ModelConfig.from_dict({**dense, "eos_token_id": [5, 3], "quantization_config": {"bits": 4}})
    assert {config: 1}[ModelConfig.from_dict(config.to_dict())] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 1  # type: ignore[misc]


# --- experts and dense layers (PITFALLS 13) ---


def test_decoder_sparse_step_and_mlp_only_layers_choose_the_dense_layers(moe: Config) -> None:
    config = ModelConfig.from_dict(
        {**moe, "num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    )
    assert [config.is_moe(layer) for layer in range(6)] == [False, True, False, False, False, True]
    assert config.mlp_only_layers == (3,)


def test_a_dense_model_has_no_experts_whatever_its_file_says_beside(dense: Config) -> None:
    config = ModelConfig.from_dict(
        {**dense, "num_experts": 0, "num_experts_per_tok": 8, "norm_topk_prob": True}
    )
    assert not any(config.is_moe(layer) for layer in range(4))
    assert config.num_active_parameters() == config.num_parameters()


def test_biases_of_attention_are_counted(dense: Config) -> None:
    config = ModelConfig.from_dict({**dense, "attention_bias": True})
    biases = 4 * (4 * 32 + 2 * 2 * 32 + 64)  # per layer: q, k and v, o
    assert config.num_parameters() - ModelConfig.from_dict(dense).num_parameters() == biases


# --- folders ---


def test_a_folder_is_read(tmp_path: Path, dense: Config) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dense))
    assert ModelConfig.from_pretrained(tmp_path) == ModelConfig.from_pretrained(str(tmp_path))
    assert ModelConfig.from_pretrained(tmp_path) == ModelConfig.from_dict(dense)
    with pytest.raises(ValueError, match="revision"):
        ModelConfig.from_pretrained(tmp_path, revision="main")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json"),
        (b"{", "Expecting"),
        (b"\xff\xfe", "codec|decode"),
        (b"[" * 200_000, "recursion"),
        (b"[]", "JSON object"),
        (b'{"model_type": "llama"}', "llama"),
        (b'{"model_type": "qwen3", "vocab_size": NaN}', "missing"),
    ],
)
def test_a_folder_with_a_bad_config_is_one_error_that_names_the_file(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        ModelConfig.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)


# --- what is written ---


def yarn_config(dense: Config) -> ModelConfig:
    scaling = {**YARN, "beta_fast": 16.0, "attention_factor": 1.5, "mscale": 0.5, "truncate": False}
    return ModelConfig.from_dict(
        {**dense, "rope_scaling": scaling, "eos_token_id": [5, 3], "pad_token_id": 0}
    )


def test_what_is_written_is_read_back_equal(dense: Config, moe: Config) -> None:
    for config in (yarn_config(dense), ModelConfig.from_dict({**moe, "mlp_only_layers": [1]})):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_is_written_loads_in_transformers_5(
    tmp_path: Path, dense: Config, moe: Config, caplog: pytest.LogCaptureFixture
) -> None:
    transformers = pytest.importorskip("transformers")
    for config in (yarn_config(dense), ModelConfig.from_dict({**moe, "mlp_only_layers": [1]})):
        (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
        with caplog.at_level(logging.WARNING):
            theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        assert "nrecognized" not in caplog.text
        for name in SAME:
            assert getattr(theirs, name, None) == getattr(config, name), name
        assert theirs.rope_parameters["rope_theta"] == config.rope_theta
        assert theirs.rope_parameters["rope_type"] == ("yarn" if config.rope_scaling else "default")
        if config.num_experts:
            assert theirs.num_experts == 8 and theirs.mlp_only_layers == [1]
        else:
            assert theirs.rope_parameters["attention_factor"] == 1.5
        theirs.save_pretrained(tmp_path)  # now in transformers 5's own spelling
        assert "rope_parameters" in (tmp_path / "config.json").read_text()
        assert ModelConfig.from_pretrained(tmp_path) == config


SAME = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "initializer_range",
    "bos_token_id",
    "pad_token_id",
)


def test_what_is_written_has_every_key_that_transformers_4_reads(moe: Config) -> None:
    written = ModelConfig.from_dict({**moe, "rope_scaling": YARN}).to_dict()
    assert written["rope_theta"] == 1e6
    assert written["rope_scaling"]["rope_type"] == "yarn" and "truncate" not in written["rope_scaling"]
    assert written["num_experts"] == 8
    assert written["torch_dtype"] == "bfloat16"
    assert written["architectures"] == ["Qwen3MoeForCausalLM"]
    assert set(SAME) <= set(written)
    assert "quantization_config" not in written


def test_a_quantised_config_keeps_its_block(dense: Config) -> None:
    block = {"quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": None}
    config = ModelConfig.from_dict({**dense, "quantization_config": block})
    assert config.quantization_config == config.to_dict()["quantization_config"] == block
    assert config != ModelConfig.from_dict(dense)
