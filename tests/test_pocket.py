"""The model inside the package: small, of a shape that block formats take, with its own ids, and right."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

import pureqwen
from pureqwen import ModelConfig, Qwen
from recipes.pocket.data import chats, facts_questions, held_out_arithmetic, talk_questions
from recipes.pocket.shape import model_config

FOLDER = Path(str(files("pureqwen"))) / "pocket"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pocket() -> Qwen:
    return pureqwen.load(dtype="float32")


def test_it_is_small_and_of_a_shape_that_block_formats_take() -> None:
    config = ModelConfig.from_pretrained(FOLDER)
    assert config.num_parameters() <= 4_000_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) <= 8_000_000
    widths = (
        config.hidden_size,
        config.num_attention_heads * config.head_dim,
        config.intermediate_size,
        config.vocab_size,
    )
    assert all(width % 256 == 0 for width in widths)
    assert config.head_dim == 64 and config.max_position_embeddings >= 4096
    assert config.tie_word_embeddings and config.torch_dtype == "float32"


def test_its_ids_differ_from_qwens_and_its_control_tokens_are_qwens_strings(pocket: Qwen) -> None:
    qwen = ModelConfig.preset("Qwen3-0.6B")
    assert max(pocket.tokenizer.special_ids.values()) < pocket.config.vocab_size < qwen.vocab_size
    assert qwen.eos_token_id not in pocket.tokenizer.special_ids.values()
    assert {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>"} <= set(
        pocket.tokenizer.special_ids
    )
    assert pocket.tokenizer.vocab_size == pocket.config.vocab_size  # no row without a token


def test_digits_are_single_tokens(pocket: Qwen) -> None:
    assert len(pocket.tokenizer.encode("1234567890")) == 10


def test_it_repeats_itself(pocket: Qwen) -> None:
    config = json.loads((FOLDER / "generation_config.json").read_text(encoding="utf-8"))
    ids = pocket.tokenizer.special_ids
    assert config["do_sample"] is False
    assert config["eos_token_id"] == [ids["<|im_end|>"], ids["<|endoftext|>"]]
    assert pocket.template is not None and pocket.template.thinking == "hybrid"


def test_the_question_of_the_readme_is_answered() -> None:
    result = pureqwen.load().chat("What is 347 * 86?")
    assert "29842" in result.content
    assert result.reasoning is not None and result.finish_reason == "stop"


@pytest.mark.parametrize("op", ["+", "-", "*"])
def test_held_out_arithmetic_is_right_when_it_thinks(pocket: Qwen, op: str) -> None:
    pairs = held_out_arithmetic(0, 60, op)  # of those that the model card counts
    results = pocket.chat([[{"role": "user", "content": question}] for question, _ in pairs], max_tokens=420)
    wrong = [(q, r.content) for (q, expected), r in zip(pairs, results, strict=True) if r.content != expected]
    assert len(wrong) <= 5, wrong


def test_it_knows_what_it_is_made_of_and_talks(pocket: Qwen) -> None:
    pairs = facts_questions(phrasing="seen")[::5] + talk_questions()
    for thinking in (True, False):
        conversations = [[{"role": "user", "content": question}] for question, _ in pairs]
        results = pocket.chat(conversations, thinking=thinking, max_tokens=120)
        wrong = [
            (q, r.content) for (q, expected), r in zip(pairs, results, strict=True) if r.content != expected
        ]
        assert len(wrong) <= len(pairs) // 10, wrong


def test_no_training_chat_holds_a_held_out_problem() -> None:
    held_out = {answer for op in "+-*" for _, answer in held_out_arithmetic(0, 300, op)}
    seen = {m["content"] for chat, _ in zip(chats(3), range(5000), strict=False) for m in chat["messages"]}
    assert not seen & held_out


def test_the_shipped_config_is_the_recipes(pocket: Qwen) -> None:
    ids = pocket.tokenizer.special_ids
    made = model_config(end_of_turn=ids["<|im_end|>"], end_of_text=ids["<|endoftext|>"])
    assert pocket.config == replace(made, torch_dtype="float32")  # stored in bfloat16, computed in float32
    assert (FOLDER / "chat_template.jinja").read_bytes() == (
        ROOT / "recipes" / "pocket" / "chat_template.jinja"
    ).read_bytes()
