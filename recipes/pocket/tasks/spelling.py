# ruff: noqa: E501  (tables)
"""Spelling, counting letters, turning words around: what a model that reads tokens finds hard.

All three write the word down letter by letter first, each letter with its place. Counting marks a letter that is asked for with how
many there were; turning around reads the places downwards:

    strawberry:  s1t2r3=1a4w5b6e7r8=2r9=3y10; count 3
    cat:         c1a2t3
                 t3a2c1
"""

import random

from recipes.pocket import words
from recipes.pocket.problem import Problem, Task

_SPELL = (
    "Spell the word {word}.", "Spell {word}.", "spell {word}", 'Spell "{word}".', "How do you spell {word}?", "Can you spell {word}?",
    "Spell out {word}, please.", "What are the letters of {word}?", 'How is "{word}" spelled?', "Write {word} letter by letter.",
    "{word}, letter by letter", "Please spell the word {word}", "List the letters of {word}.", "Spell {word} for me.",
    "Would you spell the word {word}?",
)  # fmt: skip
_REVERSE = (
    "Reverse the word {word}.", "Reverse {word}.", "reverse {word}", 'Reverse "{word}".', "Write {word} backwards.", "What is {word} backwards?",
    "Spell {word} backwards.", 'What is "{word}" in reverse?', "Turn the word {word} around.", "{word} backwards", "Please reverse {word}",
    "Can you write {word} backwards?", "Read {word} from right to left.", "Say {word} backwards.",
    "Could you turn {word} around, last letter first?",
)  # fmt: skip
_COUNT = (
    "How many {letter} are in {word}?", "How many {letter}'s are in {word}?", "how many {letter} are in {word}", 'How many {letter} are in "{word}"?',
    "Count the letter {letter} in {word}.", "How often is the letter {letter} in {word}?", "How many times does {letter} appear in {word}?",
    "How many times does the letter {letter} occur in the word {word}?", "Count the {letter}'s in {word}", "In {word}, how many {letter} are there?",
    "Number of {letter} in {word}?", "The letter {letter} in {word}: how often?", "How many letters {letter} does {word} have?",
    "Count {letter} in {word}, please.", "How many {letter}s are in the word {word}?",
    "Could you count how often {letter} stands in {word}?",
)  # fmt: skip
_LENGTH = (
    "How many letters does {word} have?", "How many letters are in {word}?", "how many letters are in {word}", 'How long is the word "{word}"?',
    "Count the letters of {word}.", "How long is {word}?", "What is the length of {word}?", "Number of letters in {word}?",
    "Please count the letters in {word}.",
    "Of how many letters is {word} made?",
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
    count = word.count(letter)
    answer = f"The letter {letter} appears {count} time{'' if count == 1 else 's'} in {word}."
    steps = f"{placed(word, letter)}; count {count}"
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
