"""The pocket's shape and how it is trained: two stages, the second one short and in many more wordings."""

import dataclasses
from typing import Any

from pureqwen.config import ModelConfig, TrainConfig
from recipes.pocket.tokenizer import CONTEXT, VOCAB_SIZE

SEED = 7
NUM_CHATS = 56_000  # of the first stage, in one pass
NUM_FINISHING = 20_000  # of the second


def model_config(*, end_of_turn: int, end_of_text: int) -> ModelConfig:
    """Widths are multiples of 256, which the block-quantised formats need; four layers let it follow its
    own steps.
    """
    return ModelConfig(
        model_type="qwen3",
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        torch_dtype="bfloat16",
        eos_token_id=end_of_turn,
        pad_token_id=end_of_text,
    )


def generation_config(*, end_of_turn: int, end_of_text: int) -> dict[str, Any]:
    """Greedy, so that the same question gets the same answer."""
    return {
        "do_sample": False,
        "eos_token_id": [end_of_turn, end_of_text],
        "pad_token_id": end_of_text,
    }


TRAINING = TrainConfig(
    batch_size=4,
    sequence_length=512,
    learning_rate=2e-3,
    warmup_steps=100,
    decay_from=0.3,
    weight_decay=0.05,
    # bfloat16 products are slow on processors without AVX-512 or AMX, on some by a factor of 50.
    precision="float32",
    seed=SEED,
    save_every=250,
)
FINISHING = dataclasses.replace(TRAINING, learning_rate=1e-3, warmup_steps=20, decay_from=0.0)
