"""config.json's content -> ModelConfig's fields, and back.

transformers 4 and 5 spell the same facts differently, and both spellings are read:

    transformers 4                        transformers 5
    rope_theta, rope_scaling              rope_parameters {rope_theta, rope_type, ...}, or one per layer type
    rope_scaling's "type"                 "rope_type"
    num_experts                           num_local_experts
    torch_dtype                           dtype

A file that gives both and contradicts itself is refused, since either half could be the wrong one. So is
every switch that changes what is computed and that this package does not compute (a sliding window, another
activation, partial rotation). Settings without effect on the numbers (use_cache, attention_dropout, ...)
are left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pureqwen.config.check import check_int, refuse
from pureqwen.config.model import ARCHITECTURES, ModelConfig, RopeScaling, UnsupportedModel

# The classes of a language model's checkpoint; embedding models name the one without a head.
_CLASSES = {
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3Model": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Qwen3MoeModel": "qwen3_moe",
}
_SUPPORTED = (
    "supported are Qwen3 and Qwen3-MoE (model_type qwen3 and qwen3_moe, classes " + ", ".join(_CLASSES) + ")"
)
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
_REQUIRED_MOE = ("num_experts_per_tok", "moe_intermediate_size")
_OPTIONAL = (
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "quantization_config",
)
_OPTIONAL_MOE = ("norm_topk_prob", "decoder_sparse_step", "mlp_only_layers", "router_aux_loss_coef")
# key -> the only value that is computed here (missing and null count as it)
_FIXED = {
    "hidden_act": "silu",
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
    "use_qk_norm": True,
    "qkv_bias": False,
    "shared_expert_intermediate_size": 0,
}
# what a rope dictionary may hold besides YaRN's settings
_NOT_SCALING = ("type", "rope_type", "rope_theta", "partial_rotary_factor")
# What transformers' Qwen3Config takes when the file has none. Qwen3MoeConfig has no such default.
_DENSE_HEAD_DIM = 128


def read_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ModelConfig. Raises UnsupportedModel or ValueError."""
    if not isinstance(config, Mapping):
        raise ValueError(f"a config is a JSON object, not {type(config).__name__}")
    model_type = _model_type(config)
    _check_fixed(config)
    _check_layer_types(config)
    moe = model_type == "qwen3_moe"
    fields: dict[str, Any] = {"model_type": model_type}
    for name in _REQUIRED + (_REQUIRED_MOE if moe else ()):
        if name not in config:
            raise ValueError(f"{name} is missing from the config")
        fields[name] = config[name]
    if fields["num_key_value_heads"] is None:  # as in transformers: every head has its own keys and values
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    for name in _OPTIONAL + (_OPTIONAL_MOE if moe else ()):
        if config.get(name) is not None:
            fields[name] = config[name]
    fields["head_dim"] = _head_dim(config, moe)
    fields["num_experts"] = _num_experts(config, moe)
    dtype = _either(config, "torch_dtype", "dtype")
    if dtype is not None:
        fields["torch_dtype"] = dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype
    fields["rope_theta"], fields["rope_scaling"] = _read_rope(config)
    return fields


def write_fields(config: ModelConfig) -> dict[str, Any]:
    """The content of a config.json in transformers 4's spelling, which 5 reads too; keys are sorted.

    Not both spellings: whoever changes one of the two (transformers 4 carries the other along unread) would
    leave a file that contradicts itself.
    """
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if config.rope_scaling is not None:
        fields["rope_scaling"] = _write_scaling(config.rope_scaling)
    for name in ("eos_token_id", "mlp_only_layers"):
        if isinstance(fields[name], tuple):
            fields[name] = list(fields[name])
    if fields["quantization_config"] is None:
        del fields["quantization_config"]  # null would be read as "quantised" by some
    if config.num_experts:
        fields["output_router_logits"] = False
    else:
        for name in ("num_experts", *_REQUIRED_MOE, *_OPTIONAL_MOE):
            del fields[name]
    fields.update(
        architectures=[ARCHITECTURES[config.model_type]],
        attention_dropout=0.0,
        hidden_act="silu",
        max_window_layers=config.num_hidden_layers,
        sliding_window=None,
        use_cache=True,
        use_sliding_window=False,
    )
    return dict(sorted(fields.items()))


def _model_type(config: Mapping[str, Any]) -> str:
    """The model_type, from the file's or from its class; both must be ours and agree."""
    found, classes = config.get("model_type"), config.get("architectures")
    if classes is not None and (
        not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes)
    ):
        refuse("architectures", classes, "a list of class names")
    if found is not None and not isinstance(found, str):
        refuse("model_type", found, "a string")
    said = f"model_type {found!r}, architectures {list(classes) if classes else classes!r}"
    by_class = {_CLASSES.get(name) for name in classes or ()}
    if None in by_class or (found is not None and found not in ARCHITECTURES):
        raise UnsupportedModel(f"this is not a model that pureqwen computes: {said}; {_SUPPORTED}")
    types: set[str] = {str(t) for t in by_class} | ({found} if found is not None else set())
    if not types:
        raise UnsupportedModel(f"the config names neither model_type nor architectures; {_SUPPORTED}")
    if len(types) > 1:
        raise UnsupportedModel(f"the config contradicts itself: {said}; {_SUPPORTED}")
    return types.pop()


def _check_fixed(config: Mapping[str, Any], *names: str) -> None:
    for name in names or _FIXED:
        value, only = config.get(name), _FIXED[name]
        if value is not None and (value != only or isinstance(value, bool) != isinstance(only, bool)):
            raise UnsupportedModel(f"{name} is {value!r}: only {only!r} is computed here")


def _check_layer_types(config: Mapping[str, Any]) -> None:
    layer_types = config.get("layer_types")
    if layer_types is None:
        return
    if not isinstance(layer_types, list | tuple) or len(layer_types) != config.get("num_hidden_layers"):
        refuse("layer_types", layer_types, "a list of one entry per layer")
    other = sorted({str(kind) for kind in layer_types if kind != "full_attention"})
    if other:
        raise UnsupportedModel(f"layer_types holds {', '.join(other)}: only full_attention is computed here")


def _head_dim(config: Mapping[str, Any], moe: bool) -> Any:
    if config.get("head_dim") is not None:
        return config["head_dim"]
    if moe:
        raise ValueError(
            "head_dim is missing from the config: hidden_size / num_attention_heads is wrong for Qwen3"
        )
    return _DENSE_HEAD_DIM


def _num_experts(config: Mapping[str, Any], moe: bool) -> Any:
    count = _either(config, "num_experts", "num_local_experts")
    if count is None and moe:
        raise ValueError("num_experts (or num_local_experts) is missing from the config")
    return 0 if count is None else count


def _either(config: Mapping[str, Any], old: str, new: str) -> Any:
    """The value under either spelling; null counts as absent, a contradiction is refused."""
    first, second = config.get(old), config.get(new)
    if first is not None and second is not None and first != second:
        raise ValueError(f"the config contradicts itself: {old} is {first!r}, {new} is {second!r}")
    return second if first is None else first


def _read_rope(config: Mapping[str, Any]) -> tuple[Any, RopeScaling | None]:
    """(rope_theta, scaling) from all places that may hold them."""
    new = _flat(config.get("rope_parameters"), "rope_parameters")
    old = _flat(config.get("rope_scaling"), "rope_scaling")
    thetas = {
        where: value
        for where, value in (
            ("rope_theta", config.get("rope_theta")),
            ("rope_scaling's rope_theta", old.get("rope_theta")),
            ("rope_parameters' rope_theta", new.get("rope_theta")),
        )
        if value is not None
    }
    if not thetas:
        raise ValueError(
            "the config holds no rope_theta (nor rope_parameters with one): there is no safe default"
        )
    values = list(thetas.values())
    if any(value != values[0] for value in values):
        said = ", ".join(f"{where} is {value!r}" for where, value in thetas.items())
        raise ValueError(f"the config contradicts itself: {said}")
    scalings = [_read_scaling(config, rope) for rope in (old, new) if _says_kind(rope)]
    if len(scalings) == 2 and scalings[0] != scalings[1]:
        raise ValueError(
            f"the config contradicts itself: rope_scaling is {old!r}, rope_parameters is {new!r}"
        )
    return values[0], scalings[0] if scalings else None


def _says_kind(rope: Mapping[str, Any]) -> bool:
    """Whether the dictionary names its kind. One that has settings but no kind is refused, never ignored."""
    _check_fixed(rope, "partial_rotary_factor")
    if _either(rope, "type", "rope_type") is not None:
        return True
    settings = sorted(k for k, v in rope.items() if v is not None and k not in _NOT_SCALING)
    if settings:
        raise ValueError(f"rope_scaling holds {', '.join(settings)} but no rope_type")
    return False


def _flat(rope: Any, name: str) -> Mapping[str, Any]:
    """The rope dictionary of full attention: transformers 5 may nest one per layer type."""
    if rope is None:
        return {}
    if not isinstance(rope, Mapping):
        refuse(name, rope, "an object or null")
    inner = rope.get("full_attention")
    if inner is None:
        return rope
    if not isinstance(inner, Mapping):
        refuse(f"{name}'s full_attention", inner, "an object")
    return inner


def _read_scaling(config: Mapping[str, Any], rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = _either(rope, "type", "rope_type")
    if kind == "default":
        return None
    if kind != "yarn":
        raise UnsupportedModel(f'rope_type is {kind!r}: "default" and "yarn" are computed here')
    fields = {k: v for k, v in rope.items() if v is not None and k not in _NOT_SCALING}
    unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(RopeScaling)})
    if unknown:
        raise ValueError(f"rope_scaling holds {', '.join(unknown)}, which YaRN does not know")
    # As in transformers: the length may lie beside the dictionary, and without any it is the file's context.
    beside = "original_max_position_embeddings"
    given = [length for length in (config.get(beside), fields.get(beside)) if length is not None]
    if len(given) == 2 and given[0] != given[1]:
        raise ValueError(
            f"the config contradicts itself: {beside} is {given[0]!r} and, for YaRN, {given[1]!r}"
        )
    fields[beside] = given[0] if given else config["max_position_embeddings"]
    if "factor" not in fields:
        if "factor" not in rope:
            raise ValueError("rope_scaling holds no factor: YaRN needs one")
        context = check_int("max_position_embeddings", config["max_position_embeddings"], low=1)
        fields["factor"] = context / check_int(beside, fields[beside], low=1)  # null: again as transformers
    return RopeScaling(**fields)


def _write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    fields = {k: v for k, v in dataclasses.asdict(scaling).items() if v is not None}
    if scaling.truncate:  # the default, and a key that transformers 4 does not know
        del fields["truncate"]
    return fields
