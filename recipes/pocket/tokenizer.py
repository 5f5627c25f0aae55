"""Makes the pocket's tokenizer: byte-level, with the pre-tokenization and the control tokens of Qwen3.

The same strings are control tokens as in Qwen3, so that every template and tool finds them, but their ids
are the pocket's own: nothing may assume Qwen's. Digits are single tokens because the pre-tokenizer splits
them.

Byte pair encoding hides letters: in "strawberry" as two tokens nobody sees three r. So this vocabulary has
whole words only, the most frequent of the training, and no merges: every other word is its letters. A letter
is then the same token in a question, in the working and in the answer, and copying it is what attention
learns first.
"""

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from recipes.pocket.data import chats
from recipes.pocket.shape import CONTEXT, VOCAB_SIZE
from recipes.pocket.tasks.objects import CITIES
from recipes.pocket.tasks.stories import NAMES
from recipes.pocket.words import COMMON, WORDS

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPACE = "\u0120"  # how byte-level tokens write it
END_OF_TEXT, START, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (
    END_OF_TEXT, START, END_OF_TURN, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN_CONTROL = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip


def _texts(seed: int, count: int) -> Iterator[str]:
    """What merges are learned from: the template's own words and the chats' texts."""
    for chat in itertools.islice(chats(seed), count):
        for message in chat["messages"]:
            yield f"{message['role']}\n{message['content']}"
            yield message.get("reasoning_content", "")
        for tool in chat.get("tools", ()):
            yield json.dumps(tool)


def choose_pieces(counts: Counter[str], spelled: Collection[str], num: int) -> list[str]:
    """The pre-tokens that save most tokens when each becomes one; no single letter with a space in front, and
    no word that has to be copied letter by letter.
    """

    def saved(piece: str) -> int:
        return counts[piece] * (len(piece) - 1)

    def is_spelled(piece: str) -> bool:
        letters = "".join(filter(str.isalpha, piece.replace(SPACE, "")))
        return len(letters) == 1 or not {letters, letters.lower()}.isdisjoint(spelled)

    pieces = [piece for piece in counts if len(piece) > 1 and not is_spelled(piece)]
    return sorted(pieces, key=lambda piece: (-saved(piece), piece))[:num]


def train_tokenizer(folder: Path, *, seed: int = 0, count: int = 12_000) -> None:
    """Writes tokenizer.json and tokenizer_config.json into folder."""
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    counts: Counter[str] = Counter()
    for text in _texts(seed, count):
        counts.update(piece for piece, _ in pre_tokenizer.pre_tokenize_str(text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    num = VOCAB_SIZE - len(SPECIAL) - len(PLAIN_CONTROL) - len(alphabet)
    symbols = [*alphabet, *choose_pieces(counts, {*NAMES, *CITIES, *WORDS} - {*COMMON}, num)]
    # ignore_merges: a pre-token of the vocabulary is that token; without merges all others are their bytes
    vocabulary = {symbol: id for id, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(
        add_prefix_space=False, trim_offsets=False, use_regex=False
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in PLAIN_CONTROL])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END_OF_TURN,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
