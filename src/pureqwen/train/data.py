"""Training data: chats and plain texts to token ids, and these packed into rows.

Of a text every token is learned, and a text longer than a row is cut into several.

Of a chat only what the assistant writes is learned, end of turn included. For each assistant turn the
prompt is what the model will be given when it is asked: the template's rendering of the messages before,
with the generation prompt. A turn without thinking gets the prompt for a direct answer, so that the
template's empty think block is never learned, and a turn with thinking must come out with it. Templates of
hybrid models drop the thoughts of earlier turns; where that makes the next prompt differ from what was
learned, each turn is a document of its own, else the chat is one.

What it does not do: truncate. A chat longer than a row is an error, or left out and counted where the
settings say so.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pureqwen.chat import ChatTemplate
from pureqwen.tokenizer import Tokenizer
from pureqwen.train.loss import IGNORED, Batch
from pureqwen.train.records import Source, read_records


@dataclass(frozen=True)
class Document:
    """Token ids, and for each whether it is learned. What the model sees of it is never more than the
    document.
    """

    ids: array[int]
    learned: bytearray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Corpus:
    """All documents of a run, and how many chats were left out for their length."""

    documents: list[Document]
    num_skipped: int


def read_corpus(
    source: Source,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    *,
    length: int,
    skip_long_chats: bool = False,
) -> Corpus:
    """All documents of `source`, none longer than `length` tokens. ValueError names file and line."""
    documents: list[Document] = []
    end = end_of_turn(tokenizer, template) if template else None
    num_skipped = 0
    for where, record in read_records(source):
        try:
            if "text" in record:
                documents += _split(encode_text(record["text"], tokenizer), length)
                continue
            if template is None:
                raise ValueError("a chat needs a chat template, and the tokenizer's folder has none")
            made = encode_chat(record["messages"], tokenizer, template, tools=record.get("tools"), end=end)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if (longest := max(map(len, made))) > length:
            if not skip_long_chats:
                raise ValueError(
                    f"{where}: the chat has {longest} tokens and a row has {length}; "
                    "raise sequence_length, or set skip_long_chats"
                )
            num_skipped += 1
            continue
        documents += made
    if not documents:
        raise ValueError(f"no training data: {num_skipped} chats were too long, and there is nothing else")
    if not any(any(document.learned[1:]) for document in documents):  # nothing predicts the first token
        raise ValueError("no training data: no text has a second token, so there is no next one to learn")
    return Corpus(documents, num_skipped)


def encode_text(text: str, tokenizer: Tokenizer) -> Document:
    """A plain text, control strings in it parsed: whoever writes training texts owns them. All of it is
    learned.
    """
    ids = array("i", tokenizer.encode(text, allow_special=True))
    return Document(ids, bytearray(b"\x01" * len(ids)))


def _split(document: Document, length: int) -> list[Document]:
    parts = range(0, len(document), length)
    return [Document(document.ids[i : i + length], document.learned[i : i + length]) for i in parts]


def end_of_turn(tokenizer: Tokenizer, template: ChatTemplate) -> int | None:
    """The control token that the template puts behind an assistant's message; None where it has none."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    control = set(tokenizer.special_ids.values())
    ids = template.encode(tokenizer, messages, add_generation_prompt=False)
    return next((id for id in reversed(ids) if id in control), None)


def encode_chat(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    tools: Sequence[Any] | None = None,
    end: int | None = None,
) -> list[Document]:
    """The chat's documents: every assistant turn is learned exactly once, behind the prompt it will be given.

    Messages are prepared as for `Qwen.chat`: text parts are joined, what the template would drop is refused.

    end is the end-of-turn id: what the template writes behind it is not learned (the model never gets there).
    ValueError where the template doesn't render the prompt as the beginning of the turn, or drops the
    thinking.
    """
    messages = template.prepare(messages)
    documents: list[Document] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        thinks = _has_thinking(message)
        prompt, target = _prompt_and_target(messages[: number + 1], tokenizer, template, tools, thinks)
        if end is not None and end in target:
            del target[len(target) - target[::-1].index(end) :]
        if thinks and "</think>" not in tokenizer.decode(target):
            raise ValueError(
                f"the template drops the thinking of message {number}: use one of a model that thinks"
            )
        last = documents[-1] if documents else None
        if last is not None and prompt[: len(last)] == list(last.ids):
            documents.pop()
            learned = last.learned + bytearray(len(prompt) - len(last))
        else:
            learned = bytearray(len(prompt))
        documents.append(Document(array("i", prompt + target), learned + bytearray(b"\x01" * len(target))))
    return documents


def _has_thinking(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return bool(message.get("reasoning_content")) or (isinstance(content, str) and "</think>" in content)


def _prompt_and_target(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    tools: Sequence[Any] | None,
    thinks: bool,
) -> tuple[list[int], list[int]]:
    """The ids in front of the last message, and its own."""
    variables = {"enable_thinking": thinks} if template.thinking == "hybrid" else {}
    prompt = template.encode(tokenizer, messages[:-1], tools=tools, add_generation_prompt=True, **variables)
    whole = template.encode(tokenizer, messages, tools=tools, add_generation_prompt=False, **variables)
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        hint = (
            "; it opens <think> in the prompt, so every turn needs its thinking"
            if template.thinking == "always"
            else ""
        )
        raise ValueError(
            f"message {len(messages) - 1}: the template doesn't render its prompt as its beginning{hint}"
        )
    return prompt, whole[len(prompt) :]


def pack(
    documents: Sequence[Document], length: int, *, order: random.Random | None = None
) -> list[list[int]]:
    """Document numbers in rows of at most `length` tokens: first fit over the rows still open, in `order`'s
    order.
    """
    numbers = list(range(len(documents)))
    if order is not None:
        order.shuffle(numbers)
    rows: list[list[int]] = []
    opened: list[tuple[int, list[int]]] = []  # (free tokens, row), the oldest first
    for number in numbers:
        size = len(documents[number])
        for slot, (free, row) in enumerate(opened):
            if size <= free:
                row.append(number)
                opened[slot] = (free - size, row)
                break
        else:
            row = [number]
            rows.append(row)
            opened.append((length - size, row))
            if len(opened) > 16:  # the fullest will hardly take another
                opened.remove(min(opened, key=lambda item: item[0]))
    return rows


def batch(documents: Sequence[Document], rows: Sequence[Sequence[int]], length: int) -> Batch:
    """Rows of documents as tensors (B, length); the rest of a row is padding, a document of its own that
    nobody learns.
    """
    shape = (len(rows), length)
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    numbers, labels = torch.full(shape, -1), torch.full(shape, IGNORED)
    for b, row in enumerate(rows):
        start = 0
        for n, document in enumerate(documents[i] for i in row):
            end = start + len(document)
            values = torch.tensor(document.ids, dtype=torch.long)
            learned = torch.frombuffer(document.learned, dtype=torch.uint8).bool()
            ids[b, start:end] = values
            positions[b, start:end] = torch.arange(len(document))
            numbers[b, start:end] = n
            labels[b, start : end - 1] = torch.where(learned[1:], values[1:], IGNORED)
            start = end
    return Batch(ids, positions, numbers, labels, int((labels != IGNORED).sum()))
