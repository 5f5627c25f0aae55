"""The official configs, where this machine has them, and one small config that the tests change."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _read(folder: str) -> dict[str, dict[str, Any]]:
    reference = Path(os.environ.get("PUREQWEN_REFERENCE", ROOT.parent / "shared" / "reference"))
    files = sorted((reference / folder).glob("*.json"))
    if not files:
        pytest.skip("the reference data is not here: set PUREQWEN_REFERENCE to its folder")
    return {path.stem: json.loads(path.read_text()) for path in files}


@pytest.fixture
def official() -> dict[str, dict[str, Any]]:
    """Name -> content of each official config.json (the reference data; skips where it is absent)."""
    return _read("configs")


@pytest.fixture
def dense() -> dict[str, Any]:
    """A small dense config.json in transformers 4's spelling."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "sliding_window": None,
        "use_sliding_window": False,
    }


@pytest.fixture
def moe(dense: dict[str, Any]) -> dict[str, Any]:
    """A small mixture of experts."""
    return {
        **dense,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
    }


@pytest.fixture
def generation() -> dict[str, dict[str, Any]]:
    """Name -> content of each official generation_config.json; skips where the reference data is absent."""
    return _read("configs/generation")
