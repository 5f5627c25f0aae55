"""What is learned of a chat and of a text, how they are packed, and what bad data says."""

import json
import random
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch

from pureqwen import ChatTemplate, Qwen3, Tokenizer
from pureqwen.model import PackedAttend
from pureqwen.train.data import (
    Document,
    batch,
    encode_chat,
    encode_text,
    end_of_turn,
    pack,
    read_corpus,
)
from pureqwen.train.loss import IGNORED
from pureqwen.train.records import read_records


def learned(document: Document, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(
        id for id, is_learned in zip(document.ids, document.learned, strict=True) if is_learned
    )


def text_of(document: Document, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(document.ids)


def made(messages: list[dict[str, Any]], tokenizer: Tokenizer, template: ChatTemplate) -> list[Document]:
    return encode_chat(messages, tokenizer, template, end=end_of_turn(tokenizer, template))


QUESTION = {"role": "user", "content": "2 + 3"}
DIRECT = {"role": "assistant", "content": "5"}
THOUGHT = {"role": "assistant", "content": "5", "reasoning_content": "2 and 3 more"}


def test_pitfall_35_only_the_assistants_turn_is_learned(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    system = {"role": "system", "content": "Be brief."}
    [document] = made([system, QUESTION, THOUGHT], tokenizer, template)
    assert learned(document, tokenizer) == "<think>\n2 and 3 more\n</think>\n\n5<|im_end|>"
    assert "Be brief." in text_of(document, tokenizer)


def test_pitfall_35_the_empty_think_block_is_not_learned(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    [document] = made([QUESTION, DIRECT], tokenizer, template)
    assert learned(document, tokenizer) == "5<|im_end|>"
    assert text_of(document, tokenizer).endswith("<think>\n\n</think>\n\n5<|im_end|>")


def test_pitfall_35_thinking_of_an_earlier_turn_is_learned_though_the_template_drops_it(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    first, second = made([QUESTION, THOUGHT, {"role": "user", "content": "+ 1"}, DIRECT], tokenizer, template)
    assert "2 and 3 more" in learned(first, tokenizer)
    assert learned(second, tokenizer) == "5<|im_end|>"
    assert "2 and 3 more" not in text_of(second, tokenizer)  # as it is when the model is asked


def test_turns_whose_prompts_continue_each_other_are_one_document(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    plain = ChatTemplate(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    [document] = made([QUESTION, DIRECT, QUESTION, DIRECT], tokenizer, plain)
    assert learned(document, tokenizer) == "5<|im_end|>5<|im_end|>"


def test_a_tool_call_and_the_answer_to_its_result_are_learned_and_the_result_is_not(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    call = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I ask.",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}],
    }
    result = {"role": "tool", "content": "SECRET"}
    documents = made([QUESTION, call, result, THOUGHT], tokenizer, template)
    text = "".join(learned(document, tokenizer) for document in documents)
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>' in text
    assert "2 and 3 more" in text and "SECRET" not in text


def test_control_strings_in_a_users_text_are_not_control_tokens(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    end = tokenizer.special_ids["<|im_end|>"]
    user = {"role": "user", "content": "<|im_end|>"}
    [document] = made([user, DIRECT], tokenizer, template)
    assert list(document.ids).count(end) == 2  # the template's own


def test_a_template_that_drops_the_thinking_is_an_error(tokenizer: Tokenizer) -> None:
    plain = ChatTemplate("{% for m in messages %}{{ m.role + ':' + m.content + '\\n' }}{% endfor %}")
    with pytest.raises(ValueError, match="drops the thinking of message 1"):
        made([QUESTION, THOUGHT], tokenizer, plain)


def test_of_a_text_all_is_learned_and_what_is_longer_than_a_row_is_split_not_cut(
    tokenizer: Tokenizer,
) -> None:
    text = "one two three " * 30
    ids = encode_text(text, tokenizer).ids
    corpus = read_corpus([{"text": text}], tokenizer, None, length=16)
    assert [id for d in corpus.documents for id in d.ids] == list(ids)
    assert all(all(d.learned) and len(d) <= 16 for d in corpus.documents)


def test_a_chat_longer_than_a_row_is_an_error_or_left_out_and_counted(
    tokenizer: Tokenizer, template: ChatTemplate, chats: list[dict[str, Any]]
) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 500}, DIRECT]}
    with pytest.raises(ValueError, match=r"record 1: the chat has \d+ tokens and a row has 64"):
        read_corpus([chats[0], long], tokenizer, template, length=64)
    corpus = read_corpus([chats[0], long], tokenizer, template, length=64, skip_long_chats=True)
    assert (len(corpus.documents), corpus.num_skipped) == (1, 1)
    with pytest.raises(ValueError, match="1 chats were too long"):
        read_corpus([long], tokenizer, template, length=64, skip_long_chats=True)


def test_every_document_is_packed_once_and_no_row_overflows() -> None:
    rng = random.Random(0)
    sizes = [rng.randint(1, 100) for _ in range(300)]
    documents = [encode_fake(size) for size in sizes]
    rows = pack(documents, 100, order=random.Random(1))
    assert sorted(n for row in rows for n in row) == list(range(300))
    assert all(sum(sizes[n] for n in row) <= 100 for row in rows)
    assert sum(sizes) / (100 * len(rows)) > 0.9
    assert rows != pack(documents, 100, order=random.Random(2))


def encode_fake(size: int) -> Document:
    return Document(array("i", range(1, size + 1)), bytearray(b"\x01" * size))


def test_a_packed_document_has_the_logits_it_has_alone(
    model: Qwen3, tokenizer: Tokenizer, template: ChatTemplate, chats: list[dict[str, Any]]
) -> None:
    documents = read_corpus(chats[:4], tokenizer, template, length=200).documents
    packed = batch(documents, [[0, 1, 2], [3]], 200)
    attends = [PackedAttend(packed.documents)] * 2
    with torch.no_grad():
        logits = model(packed.ids, positions=packed.positions, attends=attends)
        start = 0
        for document in documents[:3]:
            alone = model(torch.tensor([list(document.ids)]))[0]
            torch.testing.assert_close(logits[0, start : start + len(document)], alone, rtol=0, atol=1e-5)
            start += len(document)


def test_no_label_crosses_from_one_document_into_the_next() -> None:
    packed = batch([encode_fake(3), encode_fake(2)], [[0, 1]], 8)
    assert packed.labels.tolist() == [[2, 3, IGNORED, 2, IGNORED, IGNORED, IGNORED, IGNORED]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 0, 0, 0]]
    assert packed.count == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a record is"),
        ('{"messages": [], "text": "x"}', "a record is"),
        ('{"text": ""}', "text must be"),
        ('{"messages": "hi"}', "must be a list"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "nothing to learn"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "good"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"data\.jsonl, line 3: .*{message}"):
        list(read_records(path))


def test_content_in_text_parts_is_learned_as_one_text(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    """As clients of OpenAI's API write it; templates would leave such a message empty."""
    user, reply = {"role": "user", "content": "hi there"}, {"role": "assistant", "content": "hello you"}
    parts = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in (user, reply)]
    assert made(parts, tokenizer, template) == made([user, reply], tokenizer, template)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "developer", "content": "Be brief"}, "message 0 has the role 'developer'"),
        ({"role": "human", "content": "hi"}, "message 0 has the role 'human'"),
        ({"role": "user", "content": 3}, "message 0 has content of type int"),
        ({"role": "user"}, "message 0 .user. has no content"),
        ({"role": "assistant", "content": None}, "message 0 .assistant. has no content"),
    ],
)
def test_a_message_that_a_template_would_drop_is_an_error(
    message: dict[str, Any], said: str, tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    chat = [message, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    with pytest.raises(ValueError, match=f"record 0: {said}"):
        read_corpus([{"messages": chat}], tokenizer, template, length=64)


def test_half_a_surrogate_pair_in_a_text_is_named_with_its_record(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"record 1: .*surrogate"):
        read_corpus([{"text": "good"}, {"text": "a\ud800b"}], tokenizer, None, length=64)


def test_data_without_a_next_token_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="no next one to learn"):
        read_corpus([{"text": "1"}, {"text": "2"}], tokenizer, None, length=64)


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps([{"text": "x"}, {"text": "y"}]), encoding="utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "z"}\n', encoding="utf-8")
    (tmp_path / "notes.md").write_text("not data", encoding="utf-8")
    assert [record["text"] for _, record in read_records(tmp_path)] == ["plain", "x", "y", "z"]
    with pytest.raises(ValueError, match=r"training data is a \.jsonl file"):
        list(read_records(tmp_path / "notes.md"))
