"""ModelConfig: the shape of one Qwen3 model, under config.json's own field names.

`from_dict` reads the file's content in transformers 4's and 5's spellings (see reading.py), `to_dict`
writes one that both load, `preset` knows every released model without a network. A config says all that the
model's code needs: which layers hold experts, how positions are rotated, how many parameters there are
(Qwen3 technical report, table 1 and 2).

What it does not do: it imports no torch, reads no weights, and knows no default for the rotary base: files
differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pureqwen.config.check import check_bool, check_float, check_ids, check_int, refuse

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
DTYPES = ("bfloat16", "float32", "float16", "float64")


class UnsupportedModel(ValueError):
    """A checkpoint of another architecture, or of a Qwen3 variant that this package does not compute."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """YaRN: positions beyond the trained length (Peng et al. 2023), the one kind that Qwen3 uses.

    factor is by how much `original_max_position_embeddings` grows; attention_factor, when None, follows
    from the factor (0.1 ln(factor) + 1, section 3.4), or from mscale and mscale_all_dim where both are set;
    beta_fast and beta_slow bound the ramp between kept and stretched frequencies, in rotations over the
    original length; truncate rounds the ramp's ends to whole dimensions. Raises ValueError on a value out
    of range.
    """

    rope_type: str = "yarn"
    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.rope_type != "yarn":
            refuse("rope_type", self.rope_type, '"yarn", or "default" for none: no other is computed here')
        _set(self, "factor", check_float("rope_scaling's factor", self.factor, low=1.0))
        check_int("original_max_position_embeddings", self.original_max_position_embeddings, low=1)
        for name in ("attention_factor", "mscale", "mscale_all_dim"):
            if getattr(self, name) is not None:
                _set(self, name, check_float(f"rope_scaling's {name}", getattr(self, name), low=0.0))
        for name in ("beta_fast", "beta_slow"):
            _set(self, name, check_float(f"rope_scaling's {name}", getattr(self, name), low=0.0, above=True))
        if self.beta_fast < self.beta_slow:
            refuse("rope_scaling's beta_fast", self.beta_fast, f"at least beta_slow, {self.beta_slow}")
        check_bool("rope_scaling's truncate", self.truncate)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of one model. Field names are config.json's; counts are plain integers, ids are token ids.

    head_dim is a field of its own: it is not hidden_size / num_attention_heads in 0.6B, 4B and 32B. For a
    mixture of experts, layer L holds experts unless it is in mlp_only_layers or (L + 1) %
    decoder_sparse_step is not 0. max_position_embeddings is the context in tokens, rope_theta the rotary
    base, torch_dtype the file's own dtype.

    Raises ValueError, naming the field, what it was and what it must be; UnsupportedModel for another
    model_type.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float = 1e-6
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    initializer_range: float = 0.02
    torch_dtype: str | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    router_aux_loss_coef: float = 0.001
    quantization_config: dict[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model_type, str) or self.model_type not in ARCHITECTURES:
            raise UnsupportedModel(
                f"model_type is {self.model_type!r}: supported are {' and '.join(ARCHITECTURES)}"
            )
        self._check_sizes()
        self._check_settings()
        self._check_experts()

    def _check_sizes(self) -> None:
        for name in _SIZES:
            # The bound is for hostile files: a model of a billion layers would be built before it fails.
            high = 10_000 if name == "num_hidden_layers" else 2**31 - 1
            _set(self, name, check_int(name, getattr(self, name), low=1, high=high))
        if self.num_attention_heads % self.num_key_value_heads:
            refuse(
                "num_key_value_heads",
                self.num_key_value_heads,
                f"a divisor of num_attention_heads, {self.num_attention_heads}",
            )
        if self.head_dim % 2:
            refuse("head_dim", self.head_dim, "even: rotary positions turn its two halves against each other")

    def _check_settings(self) -> None:
        _set(self, "rope_theta", check_float("rope_theta", self.rope_theta, low=1.0, above=True))
        _set(
            self,
            "rms_norm_eps",
            check_float("rms_norm_eps", self.rms_norm_eps, low=0.0, high=1.0, above=True),
        )
        _set(self, "initializer_range", check_float("initializer_range", self.initializer_range, low=0.0))
        check_bool("tie_word_embeddings", self.tie_word_embeddings)
        check_bool("attention_bias", self.attention_bias)
        if self.torch_dtype is not None and self.torch_dtype not in DTYPES:
            refuse("torch_dtype", self.torch_dtype, f"one of {', '.join(DTYPES)}")
        if self.rope_scaling is not None and not isinstance(self.rope_scaling, RopeScaling):
            refuse("rope_scaling", self.rope_scaling, "a RopeScaling or None")
        for name in ("bos_token_id", "pad_token_id"):
            if getattr(self, name) is not None:
                _set(self, name, check_int(name, getattr(self, name)))
        if isinstance(self.eos_token_id, list | tuple):
            _set(self, "eos_token_id", check_ids("eos_token_id", self.eos_token_id))
        elif self.eos_token_id is not None:
            _set(self, "eos_token_id", check_int("eos_token_id", self.eos_token_id))
        if self.quantization_config is not None and not isinstance(self.quantization_config, dict):
            refuse("quantization_config", self.quantization_config, "an object or null")

    def _check_experts(self) -> None:
        moe = self.model_type == "qwen3_moe"
        _set(self, "num_experts", check_int("num_experts", self.num_experts))
        if moe != (self.num_experts > 0):
            refuse(
                "num_experts",
                self.num_experts,
                f"{'at least 1' if moe else '0'} in a model_type {self.model_type}",
            )
        low, high = (1, self.num_experts) if moe else (0, 0)
        _set(
            self,
            "num_experts_per_tok",
            check_int("num_experts_per_tok", self.num_experts_per_tok, low=low, high=high),
        )
        _set(
            self,
            "moe_intermediate_size",
            check_int("moe_intermediate_size", self.moe_intermediate_size, low=low),
        )
        check_bool("norm_topk_prob", self.norm_topk_prob)
        _set(self, "decoder_sparse_step", check_int("decoder_sparse_step", self.decoder_sparse_step, low=1))
        layers = check_ids("mlp_only_layers", self.mlp_only_layers)
        if any(layer >= self.num_hidden_layers for layer in layers):
            refuse(
                "mlp_only_layers", layers, f"layer numbers below num_hidden_layers, {self.num_hidden_layers}"
            )
        _set(self, "mlp_only_layers", layers)
        _set(
            self,
            "router_aux_loss_coef",
            check_float("router_aux_loss_coef", self.router_aux_loss_coef, low=0.0),
        )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Read the content of a config.json. Raises UnsupportedModel or ValueError, naming what is wrong."""
        from pureqwen.config.reading import read_fields

        return cls(**read_fields(config))

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, *, revision: str | None = None) -> ModelConfig:
        """Read config.json of a folder, or of a repository "owner/name" of the hub (it alone is fetched).

        Raises UnsupportedModel or ValueError, naming the file; HubError where it can't be fetched.
        """
        folder = Path(folder_or_hub_id)
        if folder.is_dir():
            if revision is not None:
                raise ValueError(
                    f"revision is {revision!r}, but {folder} is a folder: only the hub has revisions"
                )
        else:
            from pureqwen.hub import fetch

            folder = fetch(str(folder_or_hub_id), revision=revision, allow_patterns=("config.json",))
        path = folder / "config.json"
        if not path.is_file():
            raise ValueError(f"no config.json in {folder}: a checkpoint's folder holds one")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls.from_dict(content)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{path}: {error}") from error
        except (ValueError, RecursionError) as error:  # json's and UTF-8's errors are ValueErrors too
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """The config of a released model, "Qwen3-0.6B" or "Qwen/Qwen3-0.6B", without a network.

        A checkpoint's own file wins over it. Raises ValueError, with the nearest names, where it is unknown.
        """
        from pureqwen.config.presets import preset_info

        return preset_info(name).config

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json for transformers 4 and 5; from_dict reads it back to an equal one."""
        from pureqwen.config.reading import write_fields

        return write_fields(self)

    def is_moe(self, layer: int) -> bool:
        """Whether this layer (from 0) holds experts instead of one MLP."""
        return (
            self.num_experts > 0
            and layer not in self.mlp_only_layers
            and (layer + 1) % self.decoder_sparse_step == 0
        )

    @property
    def context_length(self) -> int:
        """Positions that the model can tell apart: those of the file, or as many as YaRN stretches them to.

        Qwen's model cards add rope_scaling to config.json and leave max_position_embeddings as it is.
        """
        if self.rope_scaling is None:
            return self.max_position_embeddings
        stretched = self.rope_scaling.factor * self.rope_scaling.original_max_position_embeddings
        return max(self.max_position_embeddings, int(stretched))

    def num_embedding_parameters(self) -> int:
        """Numbers in the vocabulary tables: the embedding, and the head unless the two are one."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    def num_parameters(self) -> int:
        """All numbers in the model; a tied head counts once."""
        return self._count(self.num_experts)

    def num_active_parameters(self) -> int:
        """The numbers that a token meets: both vocabulary tables, of the experts the chosen ones only."""
        return self._count(self.num_experts_per_tok)

    def num_non_embedding_parameters(self) -> int:
        """All numbers but the vocabulary tables."""
        return self.num_parameters() - self.num_embedding_parameters()

    def _count(self, experts: int) -> int:
        hidden, queries = self.hidden_size, self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        attention = 2 * hidden * queries + 2 * hidden * keys + 2 * self.head_dim  # q, o; k, v; q_norm, k_norm
        if self.attention_bias:
            attention += queries + 2 * keys + hidden
        dense = 3 * hidden * self.intermediate_size
        router = hidden * self.num_experts
        sparse = 3 * hidden * self.moe_intermediate_size * experts + router
        layers = sum(
            attention + 2 * hidden + (sparse if self.is_moe(layer) else dense)
            for layer in range(self.num_hidden_layers)
        )
        return self.num_embedding_parameters() + layers + hidden  # the final norm


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


def _set(config: object, name: str, value: object) -> None:
    """Set a frozen field; only __post_init__ does."""
    object.__setattr__(config, name, value)
