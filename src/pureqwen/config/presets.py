"""Every released Qwen3 model by name: ModelConfig.preset("Qwen3-0.6B") needs no file and no network.

A released model is a shape (how large) and a kind (what it was trained for, hence context, rotary base, end
of text); the rows below name the two and what differs from them. The values are those of the official
config.json files; for the rows marked `reconstructed` the file was not seen and the values follow from its
siblings'. A checkpoint's own file always wins over a preset.

This is the only module where token ids of Qwen's vocabulary are written: elsewhere they come from files.
What it does not do: Qwen3-Next, Qwen3-VL and Qwen3-Omni are other architectures.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

from pureqwen.config.model import ModelConfig

Kind = Literal["hybrid", "base", "instruct", "thinking", "coder", "embedding", "reranker", "guard"]
Quantization = Literal["fp8", "awq", "gptq"]

_END_OF_TEXT = 151643  # <|endoftext|>: ends a document; base models stop at it
_END_OF_TURN = 151645  # <|im_end|>: ends a message; the others stop at it
_HUB_OWNER = "Qwen/"


@dataclass(frozen=True, kw_only=True)
class PresetInfo:
    """A released model: its name, its config and where the config's values come from.

    kind is what it was trained for: "hybrid" thinks or answers directly, "instruct" only answers,
    "thinking" only thinks. quantization names the weights' format, None for bfloat16; unquantized is then
    the sibling to load instead. reconstructed: the official file was not seen, the values follow from its
    siblings'.
    """

    name: str
    config: ModelConfig
    kind: Kind
    quantization: Quantization | None
    unquantized: str
    reconstructed: bool

    @property
    def hub_id(self) -> str:
        """The repository's name on the hub."""
        return _HUB_OWNER + self.name


@dataclass(frozen=True)
class _Shape:
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0


# fmt: off
_SHAPES = {
    #               layers  hidden  ffn   heads  kv  tied   experts, chosen, ffn of each
    "0.6B":      _Shape(28, 1024,  3072,  16,  8,  True),
    "1.7B":      _Shape(28, 2048,  6144,  16,  8,  True),
    "4B":        _Shape(36, 2560,  9728,  32,  8,  True),
    "8B":        _Shape(36, 4096, 12288,  32,  8),
    "14B":       _Shape(40, 5120, 17408,  40,  8),
    "32B":       _Shape(64, 5120, 25600,  64,  8),
    "30B-A3B":   _Shape(48, 2048,  6144,  32,  4, False,  128,  8,   768),
    "235B-A22B": _Shape(94, 4096, 12288,  64,  4, False,  128,  8,  1536),
    "480B-A35B": _Shape(62, 6144,  8192,  96,  8, False,  160,  8,  2560),
}
# fmt: on


@dataclass(frozen=True)
class _Row:
    name: str
    shape: str
    kind: Kind
    context: int = 40_960
    rope_theta: float = 1e6
    eos: int = _END_OF_TURN
    vocab_size: int = 151_936
    reconstructed: bool = False
    quantization: Quantization | None = None


_ROWS = (
    _Row("Qwen3-0.6B", "0.6B", "hybrid"),
    _Row("Qwen3-1.7B", "1.7B", "hybrid"),
    _Row("Qwen3-4B", "4B", "hybrid"),
    _Row("Qwen3-8B", "8B", "hybrid"),
    _Row("Qwen3-14B", "14B", "hybrid"),
    _Row("Qwen3-32B", "32B", "hybrid"),
    _Row("Qwen3-30B-A3B", "30B-A3B", "hybrid"),
    _Row("Qwen3-235B-A22B", "235B-A22B", "hybrid"),
    _Row("Qwen3-0.6B-Base", "0.6B", "base", 32_768, eos=_END_OF_TEXT, reconstructed=True),
    _Row("Qwen3-1.7B-Base", "1.7B", "base", 32_768, eos=_END_OF_TEXT, reconstructed=True),
    _Row("Qwen3-4B-Base", "4B", "base", 32_768, eos=_END_OF_TEXT, reconstructed=True),
    _Row("Qwen3-8B-Base", "8B", "base", 32_768, eos=_END_OF_TEXT),
    _Row("Qwen3-14B-Base", "14B", "base", 32_768, eos=_END_OF_TEXT, reconstructed=True),
    _Row("Qwen3-30B-A3B-Base", "30B-A3B", "base", 32_768, eos=_END_OF_TEXT, reconstructed=True),
    _Row("Qwen3-4B-Instruct-2507", "4B", "instruct", 262_144, 5e6),
    _Row("Qwen3-30B-A3B-Instruct-2507", "30B-A3B", "instruct", 262_144, 1e7),
    _Row("Qwen3-235B-A22B-Instruct-2507", "235B-A22B", "instruct", 262_144, 5e6),
    _Row("Qwen3-4B-Thinking-2507", "4B", "thinking", 262_144, 5e6),
    _Row("Qwen3-30B-A3B-Thinking-2507", "30B-A3B", "thinking", 262_144, 1e7),
    _Row("Qwen3-235B-A22B-Thinking-2507", "235B-A22B", "thinking", 262_144, 5e6, reconstructed=True),
    _Row("Qwen3-Coder-30B-A3B-Instruct", "30B-A3B", "coder", 262_144, 1e7),
    _Row("Qwen3-Coder-480B-A35B-Instruct", "480B-A35B", "coder", 262_144, 1e7),
    _Row("Qwen3-Embedding-0.6B", "0.6B", "embedding", 32_768, eos=_END_OF_TEXT, vocab_size=151_669),
    _Row("Qwen3-Embedding-4B", "4B", "embedding", vocab_size=151_665),
    _Row("Qwen3-Embedding-8B", "8B", "embedding", vocab_size=151_665),
    _Row("Qwen3-Reranker-0.6B", "0.6B", "reranker", vocab_size=151_669),
    _Row("Qwen3-Reranker-4B", "4B", "reranker", vocab_size=151_669),
    _Row("Qwen3-Reranker-8B", "8B", "reranker", vocab_size=151_669, reconstructed=True),
    _Row("Qwen3Guard-Gen-0.6B", "0.6B", "guard", 32_768, reconstructed=True),
    _Row("Qwen3Guard-Gen-4B", "4B", "guard", 32_768, reconstructed=True),
    _Row("Qwen3Guard-Gen-8B", "8B", "guard", 32_768, reconstructed=True),
    _Row("Qwen3-32B-FP8", "32B", "hybrid", quantization="fp8"),
    _Row("Qwen3-30B-A3B-FP8", "30B-A3B", "hybrid", quantization="fp8"),
    _Row("Qwen3-235B-A22B-FP8", "235B-A22B", "hybrid", quantization="fp8"),
    _Row("Qwen3-4B-AWQ", "4B", "hybrid", quantization="awq"),
    _Row("Qwen3-30B-A3B-GPTQ-Int4", "30B-A3B", "hybrid", quantization="gptq", reconstructed=True),
)


def preset_names() -> tuple[str, ...]:
    """The names of all presets, as on the hub without the owner."""
    return tuple(row.name for row in _ROWS)


def preset_info(name: str) -> PresetInfo:
    """The preset of this name, "Qwen3-0.6B" or "Qwen/Qwen3-0.6B", in any case.

    Raises ValueError, with the nearest names, where there is none.
    """
    wanted = name.casefold().removeprefix(_HUB_OWNER.casefold())
    for row in _ROWS:
        if row.name.casefold() == wanted:
            return PresetInfo(
                name=row.name,
                config=_config(row),
                kind=row.kind,
                quantization=row.quantization,
                unquantized=row.name.removesuffix("-FP8").removesuffix("-AWQ").removesuffix("-GPTQ-Int4"),
                reconstructed=row.reconstructed,
            )
    by_folded = {known.casefold(): known for known in preset_names()}
    near = [by_folded[found] for found in difflib.get_close_matches(wanted, by_folded, n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(preset_names())}"
    raise ValueError(f"there is no preset {name!r}: {hint}")


def supported_models_table() -> str:
    """All presets as a Markdown table, for the README."""
    lines = [
        "| model | parameters | active | layers | hidden | heads / KV | context | kind | config |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for info in map(preset_info, preset_names()):
        config = info.config
        weights = f", {info.quantization.upper()} (config only)" if info.quantization else ""
        lines.append(
            f"| {info.name} "
            f"| {_billions(config.num_parameters())} | {_billions(config.num_active_parameters())} "
            f"| {config.num_hidden_layers} | {config.hidden_size:,} "
            f"| {config.num_attention_heads} / {config.num_key_value_heads} "
            f"| {config.max_position_embeddings:,} | {info.kind}{weights} "
            f"| {'reconstructed' if info.reconstructed else 'official'} |"
        )
    return "\n".join(lines) + "\n"


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count < 10e9 else f"{count / 1e9:.1f} B"


def _config(row: _Row) -> ModelConfig:
    shape = _SHAPES[row.shape]
    coder_480b = row.shape == "480B-A35B"  # its file has no beginning of text and no balancing loss
    return ModelConfig(
        model_type="qwen3_moe" if shape.num_experts else "qwen3",
        vocab_size=row.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=128,
        max_position_embeddings=row.context,
        rope_theta=row.rope_theta,
        tie_word_embeddings=shape.tie_word_embeddings,
        torch_dtype="float16" if row.quantization in ("awq", "gptq") else "bfloat16",
        bos_token_id=None if coder_480b else _END_OF_TEXT,
        eos_token_id=row.eos,
        num_experts=shape.num_experts,
        num_experts_per_tok=shape.num_experts_per_tok,
        moe_intermediate_size=shape.moe_intermediate_size,
        norm_topk_prob=shape.num_experts > 0,
        router_aux_loss_coef=0.0 if coder_480b else 0.001,
        quantization_config=_quantization(row.quantization, shape),
    )


def _quantization(kind: Quantization | None, shape: _Shape) -> dict[str, Any] | None:
    """The quantization_config of the official files."""
    if kind == "fp8":
        kept = ["lm_head"]  # the mixtures list what stays in bfloat16, the dense models don't
        for layer in range(shape.num_hidden_layers):
            kept += [
                f"model.layers.{layer}.{part}"
                for part in ("input_layernorm", "mlp.gate", "post_attention_layernorm")
            ]
        fp8: dict[str, Any] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        }
        return {**fp8, "modules_to_not_convert": kept} if shape.num_experts else fp8
    if kind == "awq":
        return {
            "bits": 4,
            "group_size": 128,
            "modules_to_not_convert": None,
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": True,
        }
    if kind == "gptq":
        return {"bits": 4, "desc_act": False, "group_size": 128, "quant_method": "gptq", "sym": True}
    return None
