# ruff: noqa: E501  (Markdown)
"""What is said of the pocket's evaluation: its model card, and the README's table. All figures come from the JSON file.

`python -m recipes.pocket.card` writes the cards beside the models.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.pocket.shape import NUM_CHATS, POLISH_CHATS, TRAINING, model_config

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"  # NAME.json of each model
FOLDERS = {  # of the models, by name
    "pocket": ROOT / "src" / "pureqwen" / "pocket",
    "pocket-moe": ROOT / "src" / "pureqwen" / "pocket_moe",
}
Result = Mapping[str, Any]
COLUMNS = {  # of the table, and of the evaluation
    "thinking": "thinking, seen wording",
    "thinking, new wording": "thinking, held out wording",
    "direct": "direct, seen wording",
    "direct, new wording": "direct, held out wording",
}
CARD = """---
license: apache-2.0
library_name: pureqwen
---
# {title}

A Qwen3 with {parameters:,} parameters, trained from scratch by `make {name}` on two CPU cores. It calculates, spells, counts
letters, compares, sorts, converts and counts days, writing its steps first; it calls tools and uses their results,
answers in JSON, obeys a system prompt and refers back to earlier turns; it explains the parts of Qwen3 in a sentence or
two; and it says so when it is asked something else. It exists so that everything in this package can be tried without a
download, on a model that gives right answers. It is no assistant.

| | |
|---|---|
| architecture | Qwen3 ({kind}): {layers} layers, hidden size {hidden}, {heads} query and {kv} key/value heads of {head_dim}, {ffn}, tied embeddings |
| tokens | {vocabulary} byte-level tokens, Qwen3's pre-tokenization and control tokens under ids of its own; a word to spell is its letters |
| context | {context} positions; trained on documents of up to {length} tokens |
| data | {chats:,} chats, computed and checked by `recipes/pocket`; no text from elsewhere |
| decoding | greedy (`generation_config.json`) |

## Held-out accuracy

Share of answers that are exactly right, in percent, of {questions} questions a column. Numbers and words of the
questions are in no training chat, where a task has enough of them to hold some out. "New wording" is a wording that no
training chat has. "Direct" is with thinking off.

{table}

Under a thinking budget, over all tasks: {budgets}.

Measured by `{command}` on {device}.

## What it can't do

Other languages, other knowledge, larger numbers, longer texts. It was taught to answer such questions with what it can
do instead, but on wording far from its training it may well say something wrong. Without thinking it guesses at
arithmetic and at letters: the figures above say how badly.
"""


def table(result: Result) -> str:
    """The accuracy of every task, as Markdown."""
    lines = [f"| task | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
    for row in result["rows"]:
        lines.append(f"| {row['task']} | {' | '.join(f'{row[name]:g}' for name in COLUMNS.values())} |")
    means = (mean(result, name) for name in COLUMNS.values())
    return "\n".join([*lines, f"| **all tasks** | {' | '.join(f'**{value:.1f}**' for value in means)} |"])


def mean(result: Result, column: str) -> float:
    """Over the tasks, in percent."""
    rows = result["rows"]
    return sum(float(row[column]) for row in rows) / len(rows)


def readme_table(result: Result, picture: str, *, sibling: Result) -> str:
    """The README's block: what was asked, the table, the picture, and how well the sibling with experts does."""
    seen, new, direct, direct_new = (f"{mean(sibling, name):.1f}" for name in COLUMNS.values())
    return (
        f"Percent of answers that are exactly right, {questions(result)} held-out questions a figure; "
        "numbers and words that no training chat has, and a wording of the training or a new one.\n\n"
        f"{table(result)}\n\n"
        f"![Accuracy of the pocket by task, with thinking and without, and against the thinking budget]({picture})\n\n"
        f"`pocket-moe` is its sibling with experts, of the same recipe ([card](src/pureqwen/pocket_moe/README.md)): over all "
        f"tasks {seen} and {new} percent with thinking, {direct} and {direct_new} without."
    )


def questions(result: Result) -> int:
    """Of each task, mode and wording."""
    return int(max(row["questions"] for row in result["rows"]))


def model_card(result: Result, *, experts: bool = False) -> str:
    """The card of an evaluation's result: of the pocket, or of its sibling with experts."""
    shape = model_config(end_of_turn=0, end_of_text=0, experts=experts)
    ffn = f"SwiGLU {shape.intermediate_size}"
    if experts:
        ffn = (
            f"{shape.num_experts} experts of SwiGLU {shape.moe_intermediate_size}, "
            f"{shape.num_experts_per_tok} of them for a token"
        )
    said = [(row["budget"], f"{row['accuracy']:g} %") for row in result["budgets"]]
    return CARD.format(
        title="pocket-moe: the pocket as a mixture of experts"
        if experts
        else "pocket: the model inside pureqwen",
        name="pocket-moe" if experts else "pocket",
        kind="mixture of experts" if experts else "dense",
        parameters=result["parameters"],
        layers=shape.num_hidden_layers,
        hidden=shape.hidden_size,
        heads=shape.num_attention_heads,
        kv=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        ffn=ffn,
        vocabulary=shape.vocab_size,
        context=f"{shape.max_position_embeddings:,}",
        length=TRAINING.sequence_length,
        chats=NUM_CHATS + POLISH_CHATS,
        questions=questions(result),
        table=table(result),
        budgets=", ".join(f"{'no limit' if n is None else f'{n} tokens'} {share}" for n, share in said),
        command=result["command"],
        device=result["device"],
    )


if __name__ == "__main__":
    for name, folder in FOLDERS.items():
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        card = model_card(found, experts=name == "pocket-moe")
        (folder / "README.md").write_text(card, encoding="utf-8")
