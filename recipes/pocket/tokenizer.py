"""Makes the pocket's tokenizer: byte-level BPE with the pre-tokenization and the control tokens of Qwen3.

The same strings are control tokens as in Qwen3, so that every template and tool finds them, but their ids
are the pocket's own: nothing may assume Qwen's. Digits are single tokens because the pre-tokenizer splits
them.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import ascii_letters

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

from recipes.pocket import words
from recipes.pocket.data import chats
from recipes.pocket.shape import CONTEXT, VOCAB_SIZE

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
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
# Words that stand where no space does: behind a control token or in the quotes of JSON.
BARE = (
    "assistant", "system", "user", "function", "description", "parameters", "properties", "required",
    "string", "object", "type", "name", "arguments", "expression", "computes", "weather", "location",
    "calculate", "result",
)  # fmt: skip


def _texts(seed: int, count: int) -> Iterator[str]:
    """What merges are learned from: the template's own words and the chats' texts."""
    for chat in itertools.islice(chats(seed), count):
        for message in chat["messages"]:
            yield f"{message['role']}\n{message['content']}"
            yield message.get("reasoning_content", "")
        for tool in chat.get("tools", ()):
            yield json.dumps(tool)


def _pieces(pre_tokenizer: pre_tokenizers.PreTokenizer, texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    """The pre-tokens as tuples of symbols, with their frequency."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in pre_tokenizer.pre_tokenize_str(text))
    return Counter({tuple(piece): count for piece, count in counts.items()})


def learn_merges(pieces: Counter[tuple[str, ...]], count: int) -> list[tuple[str, str]]:
    """Byte pair encoding (Sennrich et al. 2016) in which no merge begins with a letter.

    So a piece grows from what stands in front of a word (" th", " the"): the words that most chats
    have become one token, and of any other word all letters but the first few stay visible. That is what
    makes spelling and counting letters possible for so small a model.
    """
    merges = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, frequency in pieces.items():
            for left, right in itertools.pairwise(symbols):
                if left[0] not in ascii_letters:
                    pairs[left, right] += frequency
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = Counter({_merged(symbols, best): n for symbols, n in pieces.items()})
    return merges


def bare_merges(wanted: Iterable[str], seen: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that make each wanted word one token, all the same, at little cost to the others.

    A word's first pair of letters is the one that is rarest in the words seen; it grows to the right, then to
    the left, so that every later merge needs three letters or more of just this word.
    """
    pairs = Counter(pair for word in seen for pair in itertools.pairwise(word))
    merges: dict[tuple[str, str], None] = {}
    for word in wanted:
        at = min(range(len(word) - 1), key=lambda i: pairs[word[i], word[i + 1]])
        grown = word[at]
        for letter in word[at + 1 :]:
            merges[grown, letter] = None
            grown += letter
        for letter in reversed(word[:at]):
            merges[letter, grown] = None
            grown = letter + grown
    return list(merges)


def _merged(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    if pair[0] not in symbols:
        return symbols
    found: list[str] = []
    for symbol in symbols:
        if found and (found[-1], symbol) == pair:
            found[-1] += symbol
        else:
            found.append(symbol)
    return tuple(found)


def train_tokenizer(folder: Path, *, seed: int = 0, count: int = 12_000) -> None:
    """Writes tokenizer.json and tokenizer_config.json into folder."""
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = bare_merges(BARE, words.WORDS)
    num_merges = VOCAB_SIZE - len(SPECIAL) - len(PLAIN_CONTROL) - len(alphabet) - len(bare)
    merges = [*learn_merges(_pieces(pre_tokenizer, _texts(seed, count)), num_merges), *bare]
    symbols = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({symbol: id for id, symbol in enumerate(symbols)}, merges))
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
