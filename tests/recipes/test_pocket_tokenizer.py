"""The pocket's tokens show letters and digits; every text comes back as it was."""

import json
import random
from pathlib import Path

import pytest

from pureqwen import Tokenizer
from recipes.pocket import words
from recipes.pocket.shape import VOCAB_SIZE
from recipes.pocket.tasks.objects import CITIES
from recipes.pocket.tasks.stories import NAMES
from recipes.pocket.tokenizer import train_tokenizer

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "pureqwen" / "pocket"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer by the recipe's rules, from fewer texts."""
    made = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(made, count=600)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(folder)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """Its tokens as texts."""
    return [tokenizer.decode([id]) for id in tokenizer.encode(text)]


def test_a_word_to_spell_is_its_letters_wherever_it_stands(tokenizer: Tokenizer) -> None:
    """So that a letter is the same token in the question, in the working and in the answer."""
    for word in {*words.WORDS, "xkcdqz"} - {*words.COMMON}:
        assert pieces(tokenizer, word) == list(word)
        assert pieces(tokenizer, f"Spell {word}.")[-len(word) - 1 : -1] == list(word)


def test_names_that_have_to_be_copied_are_their_letters(tokenizer: Tokenizer) -> None:
    assert all(pieces(tokenizer, name) == list(name) for name in (*NAMES, *CITIES))


def test_only_common_words_are_both_asked_for_and_tokens(tokenizer: Tokenizer) -> None:
    """How these are spelled is learned by heart, so none of them is held out."""
    whole = {word for word in words.WORDS if len(pieces(tokenizer, f" {word}")) == 1}
    assert whole <= {*words.COMMON}
    assert all(words.key(word) == "" for word in words.COMMON)


def test_digits_are_tokens_of_their_own(tokenizer: Tokenizer) -> None:
    assert pieces(tokenizer, "1234567890 007") == [*"1234567890", " ", *"007"]


def test_frequent_words_and_the_marks_of_the_template_are_one_token(tokenizer: Tokenizer) -> None:
    for text in (" the", "What", " is", "assistant", "user"):
        assert pieces(tokenizer, text) == [text]
    marks = (
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
    )
    assert all(len(tokenizer.encode(mark, allow_special=True)) == 1 for mark in marks)


def test_it_has_exactly_the_ids_of_the_shape_and_text_comes_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == VOCAB_SIZE
    rng = random.Random(0)
    for text in ("na\u00efve \u6570\u5b57 \U0001f600\n\n  x", *(words.word(rng) for _ in range(50))):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_same_chats_make_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    train_tokenizer(tmp_path, count=600)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_words_of_the_shipped_vocabulary_are_never_held_out() -> None:
    shipped = Tokenizer.from_pretrained(SHIPPED)
    whole = {word for word in words.WORDS if len(pieces(shipped, f" {word}")) == 1}
    assert whole and whole <= {*words.COMMON}


@pytest.mark.long
def test_the_shipped_tokenizer_is_the_one_that_the_recipe_makes(tmp_path: Path) -> None:
    train_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((SHIPPED / name).read_text())
