"""A tiny model over the pocket's own tokenizer and template, so that training tests take a second."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from pureqwen import ChatTemplate, ModelConfig, Qwen3, Tokenizer


@pytest.fixture(scope="session")
def words() -> Path:
    """A folder with a tokenizer and a hybrid template."""
    return Path(str(files("pureqwen"))) / "pocket"


@pytest.fixture(scope="session")
def tokenizer(words: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(words)


@pytest.fixture(scope="session")
def template(words: Path) -> ChatTemplate:
    found = ChatTemplate.from_pretrained(words)
    assert found is not None
    return found


@pytest.fixture
def tiny(words: Path) -> Callable[..., ModelConfig]:
    """`tiny(...)`: a config with a field or two changed."""

    def make(**fields: Any) -> ModelConfig:
        values: dict[str, Any] = {
            "model_type": "qwen3",
            "vocab_size": ModelConfig.from_pretrained(words).vocab_size,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": True,
            "initializer_range": 0.1,
            "torch_dtype": "float32",
        }
        return ModelConfig.from_dict(values | fields)

    return make


@pytest.fixture
def model(tiny: Callable[..., ModelConfig]) -> Qwen3:
    torch.manual_seed(0)
    return Qwen3(tiny())


@pytest.fixture(scope="session")
def chats() -> list[dict[str, Any]]:
    """A few chats of one turn, with thinking and without."""
    made = []
    for n in range(12):
        reply: dict[str, Any] = {"role": "assistant", "content": f"{n} + {n} = {2 * n}."}
        if n % 2:
            reply["reasoning_content"] = f"{n}+{n}={2 * n}"
        made.append({"messages": [{"role": "user", "content": f"What is {n} + {n}?"}, reply]})
    return made
