"""The golden replies again as ids of Qwen3's own tokenizer, and its streamed characters through a reply."""

import json
from pathlib import Path
from typing import Any

import pytest

from pureqwen.chat.answer.parser import ReplyOptions
from pureqwen.chat.answer.reply import Reply, split_reasoning
from pureqwen.chat.answer.tools import ToolCall
from pureqwen.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer(qwen_tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(qwen_tokenizer_folder)


def replied(tokenizer: Tokenizer, ids: list[int], options: ReplyOptions) -> Reply:
    reply = Reply(tokenizer, options=options)
    for token in ids:
        reply.push(token)
    reply.finish("stop")
    return reply


def test_the_golden_reasoning_comes_out_of_real_ids(tokenizer: Tokenizer) -> None:
    for case in cases("reasoning_parsing.jsonl"):
        inside, enabled = case["mode"] == "prompt_opened", case["mode"] != "thinking_disabled"
        ids = tokenizer.encode(case["model_output"], allow_special=True)
        reply = replied(tokenizer, ids, ReplyOptions(inside=inside, enabled=enabled))
        expected = case["trimmed"]["reasoning"], case["trimmed"]["content"]
        assert (reply.reasoning, reply.content) == expected, case["id"]


def test_the_golden_tool_calls_come_out_of_real_ids(tokenizer: Tokenizer) -> None:
    for case in cases("tool_parsing.jsonl"):
        style = "coder" if case["style"] == "qwen3_coder" else "hermes"
        ids = tokenizer.encode(case["model_output"], allow_special=True)
        reply = replied(tokenizer, ids, ReplyOptions(style=style, tools=case["tools"]))
        calls = [ToolCall(call["name"], call["arguments"]) for call in case["expected"]["tool_calls"]]
        assert (reply.content, reply.tool_calls) == (case["expected"]["content"], calls), case["id"]
        assert reply.finish_reason == ("tool_calls" if calls else "stop")


def test_a_raw_reply_of_any_ids_is_what_they_decode_to(tokenizer: Tokenizer) -> None:
    """Half characters, broken ones and control tokens included."""
    for case in cases("streaming_decode.jsonl"):
        reply = replied(tokenizer, case["ids"], ReplyOptions(enabled=False))
        assert (reply.content or "") == reply.text == case["decoded"]


def test_think_tags_are_told_from_their_spelling(tokenizer: Tokenizer) -> None:
    """A model that talks about </think>, spelled out, does not end its thought."""
    ids = [*tokenizer.encode("the tag </think> ends it"), *tokenizer.encode("</think>", allow_special=True)]
    reply = replied(tokenizer, [*ids, *tokenizer.encode("Yes")], ReplyOptions(inside=True))
    assert (reply.reasoning, reply.content) == ("the tag </think> ends it", "Yes")
    assert split_reasoning(reply.text, inside=True)[0] == "the tag", "the text alone can't tell"
