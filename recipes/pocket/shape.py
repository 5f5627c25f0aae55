"""The pocket's shape and how it is trained."""

import shutil
from dataclasses import replace
from typing import Any

from pureqwen.config import ModelConfig, TrainConfig

SEED = 7
NUM_CHATS = 160_000  # in one pass
VOCAB_SIZE, CONTEXT = 1024, 4096
NUM_LAYERS = 4


def model_config(*, end_of_turn: int, end_of_text: int, experts: bool = False) -> ModelConfig:
    """Widths are multiples of 256, which the block-quantised formats need; four layers let it follow its
    own steps. With experts: the same, each token goes through two of eight that are half as wide.
    """
    mixture: dict[str, Any] = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "norm_topk_prob": True,
        "router_aux_loss_coef": 0.001,
    }
    return ModelConfig(
        model_type="qwen3_moe" if experts else "qwen3",
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        torch_dtype="bfloat16",
        eos_token_id=end_of_turn,
        pad_token_id=end_of_text,
        **(mixture if experts else {}),
    )


def size_in_words(*, experts: bool) -> str:
    """What it says of its size."""
    shape = model_config(end_of_turn=0, end_of_text=0, experts=experts)
    return f"{shape.num_parameters() / 1e6:.1f} million parameters"


# What it says about itself.
SHAPE_IN_WORDS = {
    "parameters": size_in_words(experts=False),
    "layers": str(NUM_LAYERS),
    "vocabulary": str(VOCAB_SIZE),
}


def generation_config(*, end_of_turn: int, end_of_text: int) -> dict[str, Any]:
    """Greedy, so that the same question gets the same answer."""
    return {
        "do_sample": False,
        "eos_token_id": [end_of_turn, end_of_text],
        "pad_token_id": end_of_text,
    }


TRAINING = TrainConfig(
    batch_size=8,
    sequence_length=512,
    optimizer="muon",
    learning_rate=5e-3,
    warmup_steps=50,
    decay_from=0.3,
    weight_decay=0.05,
    precision="auto",  # bfloat16 products where the processor has them: a third quicker, and as good
    compile=shutil.which("g++") is not None,  # a fifth quicker
    seed=SEED,
    save_every=100,
    skip_long_chats=True,  # some with three tools: a few in a thousand
)

# The second stage: new chats, a low learning rate, more of what had not been learned by then.
POLISH_CHATS = 20_000
POLISH = replace(TRAINING, learning_rate=1e-3, warmup_steps=20, decay_from=0.0)
# Tasks that are so many times as frequent there, by model.
EMPHASIS = {
    "pocket": {"sorting numbers": 4.0, "counting letters": 3.0, "saying that it does not know": 2.0},
    "pocket-moe": {"sorting numbers": 4.0},
}
