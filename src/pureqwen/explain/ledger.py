"""The ledger: every block of a model with its shape, parameters, bytes and operations per token.

All of it follows from the config; no weight is read and no torch is imported. Counted are the products of
matrices, two operations (multiply, add) per weight that a token meets: of the experts the chosen ones, of
the embedding none (a row is looked up), of a tied head all (it multiplies although it holds nothing of its
own). Attention adds 4 * H * Dh operations per layer for each token that is looked back at, q k^T and the
sum of the values. Norms, RoPE, softmax and SiLU are left out: they are below a percent of the operations
(not of the time).

The convention is that of Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType

from pureqwen.config import ModelConfig
from pureqwen.config.quantization import METHOD, Scheme, schemes_in

ITEM_BYTES = MappingProxyType({"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8})


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of tensor: its path (* is any layer or expert), its shape, and how often it is there.

    count is the number of such tensors in the model, active how many of them one token meets; held is False
    for a tied head, which is the embedding once more. bits is what one number takes, with its share of the
    scales where it is quantised.
    """

    path: str
    shape: tuple[int, ...]
    count: int
    active: int
    multiplies: bool = True
    held: bool = True
    bits: float = 16

    @property
    def parameters(self) -> int:
        return self.count * prod(self.shape) if self.held else 0

    @property
    def num_bytes(self) -> int:
        """Of all such tensors."""
        return round(self.parameters * self.bits / 8)

    @property
    def flops(self) -> int:
        """Operations for one token."""
        return 2 * self.active * prod(self.shape) if self.multiplies else 0


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """All parts of a model, and the sums over them. item_bytes: of a number that is not quantised."""

    config: ModelConfig
    parts: tuple[Part, ...]
    item_bytes: int

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def weight_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    @property
    def flops(self) -> int:
        """Operations for one token, attention's looking back excluded."""
        return sum(part.flops for part in self.parts)

    @property
    def attention_flops(self) -> int:
        """Operations for one token and each token that it looks back at (itself included)."""
        config = self.config
        return 4 * config.num_attention_heads * config.head_dim * config.num_hidden_layers

    @property
    def cache_bytes(self) -> int:
        """Keys and values of one token, over all layers."""
        config = self.config
        heads = config.num_hidden_layers * config.num_key_value_heads
        return 2 * heads * config.head_dim * self.item_bytes

    def tokens_that_fit(self, num_bytes: int) -> int:
        """The longest context whose cache fits beside the weights, at most what the model was made for."""
        room = max(0, num_bytes - self.weight_bytes)
        return min(room // self.cache_bytes, self.config.context_length)


def ledger(config: ModelConfig, *, dtype: str | None = None) -> Ledger:
    """The ledger of a config, its numbers held in `dtype` ("bfloat16", "float32"; None: the config's own).

    Matrices of a quantised checkpoint that is read take the bits of their scheme; of another format, those of
    `dtype`.
    """
    dtype = dtype or config.torch_dtype or "bfloat16"
    if dtype not in ITEM_BYTES:
        raise ValueError(f"dtype is {dtype!r}: it must be one of {', '.join(ITEM_BYTES)}")
    V, D = config.vocab_size, config.hidden_size
    parts = (
        Part(path="model.embed_tokens", shape=(V, D), count=1, active=1, multiplies=False),
        *_attention(config),
        *_feed_forward(config),
        Part(path="model.norm", shape=(D,), count=1, active=1, multiplies=False),
        Part(path="lm_head", shape=(V, D), count=1, active=1, held=not config.tie_word_embeddings),
    )
    item_bits = 8 * ITEM_BYTES[dtype]
    body, head = _schemes(config)
    return Ledger(
        config=config,
        parts=tuple(_sized(part, head if part.path == "lm_head" else body, item_bits) for part in parts),
        item_bytes=ITEM_BYTES[dtype],
    )


def _schemes(config: ModelConfig) -> tuple[Scheme | None, Scheme | None]:
    quantization = config.quantization_config
    if quantization is None or quantization.get("quant_method") != METHOD:
        return None, None
    try:
        return schemes_in(quantization)
    except (ValueError, AttributeError, TypeError):  # a format that is not read: counted as its dtype
        return None, None


def _sized(part: Part, scheme: Scheme | None, item_bits: int) -> Part:
    """The part with its bits: products of matrices are quantised, all but the router's."""
    if scheme is None or not part.multiplies or part.path.endswith("mlp.gate"):
        return replace(part, bits=item_bits)
    return replace(part, bits=scheme.bits_with_scales(part.shape[-1], item_bits))


def _attention(config: ModelConfig) -> Iterator[Part]:
    D, Dh, layers = config.hidden_size, config.head_dim, config.num_hidden_layers
    queries, keys = config.num_attention_heads * Dh, config.num_key_value_heads * Dh
    shapes = {"q_proj": (queries, D), "k_proj": (keys, D), "v_proj": (keys, D), "o_proj": (D, queries)}
    yield _vector("model.layers.*.input_layernorm", D, layers)
    for name, shape in shapes.items():
        yield Part(path=f"model.layers.*.self_attn.{name}", shape=shape, count=layers, active=layers)
        if config.attention_bias:
            yield _vector(f"model.layers.*.self_attn.{name}.bias", shape[0], layers)
    for name in ("q_norm", "k_norm"):
        yield _vector(f"model.layers.*.self_attn.{name}", Dh, layers)


def _feed_forward(config: ModelConfig) -> Iterator[Part]:
    D, layers = config.hidden_size, config.num_hidden_layers
    yield _vector("model.layers.*.post_attention_layernorm", D, layers)
    sparse = sum(config.is_moe(layer) for layer in range(layers))
    if layers > sparse:
        F, dense = config.intermediate_size, layers - sparse
        for name, shape in (("gate_proj", (F, D)), ("up_proj", (F, D)), ("down_proj", (D, F))):
            yield Part(path=f"model.layers.*.mlp.{name}", shape=shape, count=dense, active=dense)
    if sparse:
        E, K, F = config.num_experts, config.num_experts_per_tok, config.moe_intermediate_size
        yield Part(path="model.layers.*.mlp.gate", shape=(E, D), count=sparse, active=sparse)
        for name, shape in (("gate_proj", (F, D)), ("up_proj", (F, D)), ("down_proj", (D, F))):
            path = f"model.layers.*.mlp.experts.*.{name}"
            yield Part(path=path, shape=shape, count=sparse * E, active=sparse * K)


def _vector(path: str, size: int, count: int) -> Part:
    """Weights that scale or shift: no product of matrices."""
    return Part(path=path, shape=(size,), count=count, active=count, multiplies=False)
