"""A checkpoint of a few thousand random numbers with a tokenizer of bytes and a template: real but small."""

import json
from pathlib import Path

import torch

from pureqwen.config import ModelConfig
from pureqwen.model import Qwen3
from pureqwen.weights import save_model

ADDED = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def byte_tokenizer() -> dict[str, object]:
    """Every byte is a token, then the added ones."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": 256 + n, "content": text, **flags} for n, text in enumerate(ADDED)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []},
    }


def write(folder: Path) -> Path:
    config = ModelConfig(
        model_type="qwen3",
        vocab_size=256 + len(ADDED),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=100_000,
        rope_theta=1e6,
        initializer_range=0.2,
        tie_word_embeddings=True,
        torch_dtype="float32",
        eos_token_id=257,
    )
    torch.manual_seed(0)
    save_model(Qwen3(config), folder, config=config)
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "generation_config.json").write_text('{"do_sample": false, "eos_token_id": 257}')
    return folder
