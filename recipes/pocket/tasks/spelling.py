# ruff: noqa: E501  (tables)
"""Spelling, counting letters, turning words around: what a model that reads tokens finds hard.

All three write the word down letter by letter first, each letter with its place. Counting writes it again, with a mark behind each letter
that is asked for: how many there were (to mark while it spells, the model would lose its place where a letter is doubled). Turning around
reads the places downwards:

    strawberry:  s1t2r3a4w5b6e7r8r9y10
                 s1t2r3=1a4w5b6e7r8=2r9=3y10; count 3
    cat:         c1a2t3
                 t3a2c1
"""

import itertools
import random

from recipes.pocket import words
from recipes.pocket.problem import Problem, Task
from recipes.pocket.wording import filled, phrased

_WORD = ("{word}", '"{word}"', "the word {word}", 'the word "{word}"', "{word}")
_LETTER = ("{letter}", "the letter {letter}", '"{letter}"')
_LETTERS = ("{letter}", "{letter}'s", '"{letter}"')
_SPELL = phrased(
    filled(("spell <w>", "spell out <w>", "write <w> letter by letter", "give me the letters of <w>", "list the letters of <w>", "say <w> letter by letter"), w=_WORD),
    filled(("how do you spell <w>", "how is <w> spelled", "what are the letters of <w>", "which letters are in <w>", "how is <w> written"), w=_WORD),
)  # fmt: skip
_REVERSE = phrased(
    filled(("reverse <w>", "write <w> backwards", "spell <w> backwards", "turn <w> around", "read <w> backwards", "say <w> backwards", "flip <w>", "write <w> in reverse",
            "write <w> from right to left", "give me <w> in reverse"), w=_WORD),
    filled(("what is <w> backwards", "what is <w> in reverse", "how is <w> written backwards", "what do you get if you reverse <w>", "what is the reverse of <w>"), w=_WORD),
)  # fmt: skip
_COUNT = phrased(
    filled(("count <l> in <w>", "count how often <l> appears in <w>", "find out how often <l> is in <w>", "tell me how often <l> occurs in <w>"), l=_LETTER, w=_WORD)
    + filled(("count how many <l> are in <w>", "tell me how many <l> are in <w>"), l=_LETTERS, w=_WORD),
    filled(("how many times does <l> appear in <w>", "how often does <l> occur in <w>", "how often is <l> in <w>"), l=_LETTER, w=_WORD)
    + filled(("how many <l> are in <w>", "how many <l> are there in <w>", "how many <l> does <w> have", "what is the number of <l> in <w>"), l=_LETTERS, w=_WORD) * 2,
)  # fmt: skip
_LENGTH = phrased(
    filled(("count the letters of <w>", "count the letters in <w>", "tell me the length of <w>", "find the length of <w>", "tell me how many letters <w> has"), w=_WORD),
    filled(("how many letters does <w> have", "how many letters are in <w>", "how long is <w>", "what is the length of <w>", "of how many letters is <w> made"), w=_WORD),
)  # fmt: skip


def placed(word: str, letter: str = "") -> str:
    """The word letter by letter with places; `letter` marked with its count so far."""
    count, parts = 0, []
    for place, found in enumerate(word, start=1):
        mark = ""
        if found == letter:
            count += 1
            mark = f"={count}"
        parts.append(f"{found}{place}{mark}")
    return "".join(parts)


def _spell(rng: random.Random) -> Problem:
    word = words.word(rng)
    answer = "-".join(word)
    return Problem(_SPELL, placed(word), answer, {"word": word}, answer, answer, words.key(word), 10)


def _reverse(rng: random.Random) -> Problem:
    word = words.word(rng)
    turned = "".join(f"{letter}{len(word) - n}" for n, letter in enumerate(reversed(word)))
    answer = word[::-1]
    return Problem(
        _REVERSE, f"{placed(word)}\n{turned}", answer, {"word": word}, answer, answer, words.key(word), 10
    )


def _count(rng: random.Random) -> Problem:
    """Seven in ten times a letter of the word, with those that occur often ahead."""
    word = words.word(rng)
    if rng.random() < 0.12:
        return _length(word)
    letter = rng.choice(word) if rng.random() < 0.8 else rng.choice(words.ALPHABET)
    doubled = [a for a, b in itertools.pairwise(word) if a == b]
    if doubled and rng.random() < 0.3:
        letter = rng.choice(doubled)
    count = word.count(letter)
    answer = f"The letter {letter} appears {count} time{'' if count == 1 else 's'} in {word}."
    steps = f"{placed(word)}\n{placed(word, letter)}; count {count}"
    fields = {"word": word, "letter": letter}
    return Problem(_COUNT, steps, answer, fields, str(count), count, words.key(word), 10)


def _length(word: str) -> Problem:
    steps = f"{placed(word)}; length {len(word)}"
    answer = f"{word} has {len(word)} letters."
    return Problem(_LENGTH, steps, answer, {"word": word}, str(len(word)), len(word), words.key(word), 10)


TASKS = (
    Task("spelling", 5, _spell, direct=0.3),
    Task("reversing words", 8, _reverse, direct=0.12),
    Task("counting letters", 10, _count, direct=0.15),
)
