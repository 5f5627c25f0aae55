# ruff: noqa: E501  (Markdown)
"""The pocket's model card, with the figures of its evaluation."""

from typing import Any

from recipes.pocket.shape import NUM_CHATS, model_config

CARD = """---
license: apache-2.0
library_name: pureqwen
---
# pocket: the model inside pureqwen

A Qwen3 with {parameters:,} parameters, trained from scratch by `make pocket` on two CPU cores. It adds and subtracts
numbers of up to 5 digits and multiplies up to 3 by 2 digits, writing its steps first; it explains the parts of Qwen3 in
a sentence or two; and it says so when it is asked something else. It exists so that everything in this package can
be tried without a download, on a model that gives right answers. It is no assistant.

| | |
|---|---|
| architecture | Qwen3 (dense): {layers} layers, hidden size {hidden}, {heads} query and {kv} key/value heads of {head_dim}, SwiGLU {ffn}, tied embeddings |
| tokens | byte-level BPE of {vocabulary}, Qwen3's pre-tokenization and control tokens under ids of its own |
| context | {context} positions; trained on documents of up to 512 tokens |
| data | {chats:,} chats, computed and checked by `recipes/pocket`; no text from elsewhere |
| decoding | greedy (`generation_config.json`) |

## Held-out accuracy

Share of answers that are exactly right, on problems whose numbers are in no training chat. "Direct" is with thinking off.

| task | questions | thinking | direct |
|---|---:|---:|---:|
{rows}

## What it can't do

Without thinking it guesses at arithmetic: the figures above say how badly. Other languages, other knowledge, division, larger numbers, tools. It was taught to answer such questions with what it can
do instead, but on wording far from its training it may well say something wrong.
"""


def model_card(result: dict[str, Any]) -> str:
    """The card of an evaluation's result."""
    shape = model_config(end_of_turn=0, end_of_text=0)
    rows = "\n".join(
        f"| {row['task']} | {row['questions']} | {row['thinking']} | {row['direct']} |"
        for row in result["rows"]
    )
    return CARD.format(
        parameters=result["parameters"],
        layers=shape.num_hidden_layers,
        hidden=shape.hidden_size,
        heads=shape.num_attention_heads,
        kv=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        ffn=shape.intermediate_size,
        vocabulary=shape.vocab_size,
        context=f"{shape.max_position_embeddings:,}",
        chats=NUM_CHATS,
        rows=rows,
    )
