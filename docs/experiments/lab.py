"""What the experiments share: a small fresh model with the pocket's words, the pocket's chats, 200 steps.

The work is the package's own: `read_corpus` makes documents of chats, and `Trainer` takes the steps.
"""

import sys
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import pureqwen
from pureqwen import Qwen, Qwen3, TrainConfig
from pureqwen.train import Document, Loss, Trainer, cross_entropy, read_corpus

sys.path.insert(0, str(Path(__file__).parents[2]))  # where the pocket's recipe is
from recipes.pocket.data import chats

FRESH = "fresh"  # the name of a model that knows nothing yet
LENGTH, BATCH = 256, 4  # tokens of a row, rows of a step
STEPS, NUM_CHATS = 200, 2400  # so many chats fill about as many rows as the steps take


@dataclass
class Found:
    """By the name of a run: the loss of each step; layer by layer, each expert's share of the choices."""

    curves: dict[str, list[float]] = field(default_factory=dict)
    shares: dict[str, list[list[float]]] = field(default_factory=dict)


def start(name: str = FRESH, *, seed: int = 0, **fields: Any) -> Qwen:
    """The checkpoint `name`, in float32; or two fresh layers of width 128 that have the pocket's words."""
    if name != FRESH:
        return pureqwen.load(name, dtype="float32")
    pocket = pureqwen.load()
    shape: dict[str, Any] = {
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "torch_dtype": "float32",
    }  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen3(replace(pocket.config, **shape, **fields))
    generation = pocket.generation_config
    return Qwen(
        model,
        tokenizer=pocket.tokenizer,
        template=pocket.template,
        generation_config=generation,
        name=FRESH,
    )


def documents(qwen: Qwen, *, seed: int, count: int) -> list[Document]:
    """The first `count` of the pocket's training chats, as this model's tokens; without the longest."""
    records = islice(chats(seed), count)
    return read_corpus(records, qwen.tokenizer, qwen.template, length=LENGTH, skip_long_chats=True).documents


def learn(qwen: Qwen, *, seed: int = 0, steps: int | None = None, loss: Loss = cross_entropy) -> list[float]:
    """Trains on the pocket's chats, the same in the same order for one seed; the loss of each step."""
    config = TrainConfig(
        steps=steps or STEPS,
        batch_size=BATCH,
        sequence_length=LENGTH,
        learning_rate=2e-3 if qwen.name == FRESH else 1e-4,  # at 2e-3 a trained model forgets what it knew
        warmup_steps=20,
        seed=seed,
    )
    return Trainer(qwen.model, documents(qwen, seed=seed, count=NUM_CHATS), config, loss=loss).run()


def show(found: Found) -> None:
    """The mean loss of each quarter of the steps, a line for each run; and the shares."""
    for name, losses in found.curves.items():
        size = max(1, len(losses) // 4)
        quarters = [losses[n : n + size] for n in range(0, len(losses), size)]
        print(f"{name:16} loss ", *(f"{sum(part) / len(part):7.3f}" for part in quarters))
    for name, layers in found.shares.items():
        for number, shares in enumerate(layers):
            print(f"{name:16} layer {number}:", *(f"{share:4.0%}" for share in shares))
