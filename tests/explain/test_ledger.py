"""The ledger's sums against the model itself, and against PyTorch's own count of operations."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pureqwen.cache.static import bytes_per_token
from pureqwen.config import ModelConfig, preset_names
from pureqwen.config.quantization import SCHEMES, quantization_config
from pureqwen.explain import ledger
from pureqwen.model import Qwen3

SMALL = {
    "model_type": "qwen3",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rope_theta": 1e6,
    "torch_dtype": "float32",
}
MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "mlp_only_layers": (1,),
}
VARIANTS = [{}, {"tie_word_embeddings": True}, {"attention_bias": True}, MOE]


def config(changes: dict[str, object]) -> ModelConfig:
    return ModelConfig(**{**SMALL, **changes})  # type: ignore[arg-type]


def numbers(parameters: Iterable[torch.nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("changes", VARIANTS)
def test_parts_add_up_to_the_model(changes: dict[str, object]) -> None:
    with torch.device("meta"):
        model = Qwen3(config(changes))
    counted = ledger(config(changes))
    assert counted.parameters == numbers(model.parameters())
    assert counted.weight_bytes == 4 * counted.parameters
    assert counted.cache_bytes == bytes_per_token(model.config, torch.float32)
    paths = {name.removesuffix(".weight") for name, _ in model.named_parameters()}
    assert len(counted.parts) - config(changes).tie_word_embeddings <= len(paths)


@pytest.mark.parametrize("name", preset_names())
def test_parts_add_up_for_every_released_model(name: str) -> None:
    released = ModelConfig.preset(name)
    counted = ledger(released)
    assert counted.parameters == released.num_parameters()
    active = sum(p.parameters * p.active // p.count for p in counted.parts)
    assert active == released.num_active_parameters()


@pytest.mark.parametrize("changes", VARIANTS)
def test_operations_are_those_that_pytorch_counts(changes: dict[str, object]) -> None:
    """One token alone: the products of matrices, and attention looking at itself."""
    torch.manual_seed(0)
    model = Qwen3(config(changes))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.tensor([[1]]))
    counted = ledger(model.config)
    assert counter.get_total_flops() in (counted.flops, counted.flops + counted.attention_flops)


def test_a_tied_head_multiplies_but_holds_nothing() -> None:
    tied, untied = ledger(config({"tie_word_embeddings": True})), ledger(config({}))
    assert untied.parameters - tied.parameters == 100 * 32
    assert untied.flops == tied.flops


def test_the_context_that_fits_is_bounded_by_memory_and_by_the_model() -> None:
    counted = ledger(config({}))
    assert counted.tokens_that_fit(counted.weight_bytes - 1) == 0
    assert counted.tokens_that_fit(counted.weight_bytes + 10 * counted.cache_bytes + 1) == 10
    assert counted.tokens_that_fit(10**12) == 64


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype is 'int3'"):
        ledger(config({}), dtype="int3")


def test_quantised_matrices_take_the_bits_of_their_scheme_and_others_those_of_the_dtype() -> None:
    plain = ModelConfig.preset("Qwen3-0.6B")
    small = replace(plain, quantization_config=quantization_config(SCHEMES["int4-g32"], SCHEMES["int8"]))
    parts = {part.path: part for part in ledger(small).parts}
    assert parts["model.layers.*.self_attn.q_proj"].bits == 4 + 16 / 32
    assert parts["lm_head"].bits == 8 + 16 / 1024
    assert parts["model.embed_tokens"].bits == parts["model.norm"].bits == 16
    assert ledger(small).weight_bytes < 0.5 * ledger(plain).weight_bytes
    for other in ({"quant_method": "compressed-tensors", "config_groups": []}, {"quant_method": "fp8"}):
        unread = replace(plain, quantization_config=other)
        assert ledger(unread).weight_bytes == ledger(plain).weight_bytes
