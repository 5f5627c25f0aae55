"""Tiny random models and their twins in transformers, with the same weights: what the ladder stands on.

initializer_range is 0.3 and not 0.02: with the usual value greedy output collapses to one token and proves
nothing.
"""

from typing import Any

import torch

from pureqwen.config import ModelConfig, RopeScaling
from pureqwen.model import Qwen3

MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}

# What is said of each is what it guards against; see PITFALLS in the decisions.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense tied": {"tie_word_embeddings": True},
    "dense untied": {},
    "moe": MOE,
    "moe without norm_topk_prob": {**MOE, "norm_topk_prob": False},
    "mixed by decoder_sparse_step": {**MOE, "decoder_sparse_step": 2},
    "mixed by mlp_only_layers": {**MOE, "mlp_only_layers": (1,)},
    "yarn factor 4": {
        "rope_scaling": RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        "max_position_embeddings": 256,
    },
    "head_dim is not hidden / heads": {"head_dim": 32},
    "gqa ratio 1": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "gqa ratio 8": {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 8},
    "attention bias": {"attention_bias": True},
}


def tiny(**changes: Any) -> ModelConfig:
    """A config of four layers and about 100k parameters; GQA ratio 2."""
    fields: dict[str, Any] = {
        "model_type": "qwen3",
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rope_theta": 1e6,
        "initializer_range": 0.3,
        "torch_dtype": "float32",
    }
    return ModelConfig(**{**fields, **changes})


def build(config: ModelConfig, *, seed: int = 7) -> Qwen3:
    """Our model with seeded random weights; norms and biases too, since 1 and 0 would hide mistakes."""
    torch.manual_seed(seed)
    model = Qwen3(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2)
    return model


def twins(config: ModelConfig, *, seed: int = 7) -> tuple[Qwen3, Any]:
    """Our model and transformers' with the same random weights, both in float32 and eval mode."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    ours = build(config, seed=seed)
    dense = config.model_type == "qwen3"
    settings = (Qwen3Config if dense else Qwen3MoeConfig).from_dict(config.to_dict())
    theirs = (Qwen3ForCausalLM if dense else Qwen3MoeForCausalLM)(settings).float().eval()
    weights = {}
    for name, tensor in ours.state_dict().items():
        if name.endswith("experts.gate_proj"):
            up = ours.state_dict()[name.replace("gate_proj", "up_proj")]
            weights[name.replace("gate_proj", "gate_up_proj")] = torch.cat((tensor, up), dim=1)
        elif not name.endswith("experts.up_proj"):
            weights[name] = tensor
    theirs.load_state_dict(weights, strict=True)
    return ours, theirs
