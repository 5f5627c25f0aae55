# ruff: noqa: E501  (tables)
"""Many wordings out of few: what is asked, in the frames in which people ask.

A model of this size learns the words of its questions by heart, so a question in a new wording is taken for another task. Commands
("sort {list}") and questions ("which is larger, {a} or {b}") are therefore put into many frames, and into one of their own
that is held out: it shows whether the task is recognised by what is asked and not by the sentence around it. Some frames have an
adverb, another one each time, spelled as the words to spell are: a new word in a sentence is not yet a word to spell.
"""

import random
from collections.abc import Iterable

_COMMANDS = (
    "{C}.", "{C}", "{c}", "{C}.", "Please {c}.", "please {c}", "Can you {c}?", "Could you {c}?", "Would you please {c}?", "I want you to {c}.", "{C}, please.",
    "{C} for me.", "Hi! {C}.", "Now {c}.", "OK, {c}.", "Will you {c}?", "Your task: {c}.", "You should {c}.", "can you {c}", "{C}!", "And now {c}.", "I'd like you to {c}.",
    "Would you <adverb> {c}?", "Could you <adverb> {c}?", "Please <adverb> {c}.", "<Adverb> {c}.", "{C} <adverb>.", "I <adverb> ask you to {c}.",
)  # fmt: skip
_QUESTIONS = (
    "{C}?", "{c}", "{C}", "{c}?", "{C}?", "Hi, {c}?", "Tell me: {c}?", "And {c}?", "So {c}?", "I want to know: {c}?", "Can you tell me: {c}?", "Quick question: {c}?",
    "Please tell me: {c}?", "{C}? Thanks!", "Do you know: {c}?", "My question: {c}?", "Hello! {C}?", "Tell me, {c}?", "A question: {c}?", "OK, {c}?",
    "I <adverb> ask: {c}?", "<Adverb>: {c}?", "Could you <adverb> say: {c}?",
)  # fmt: skip
ADVERBS = """angrily anxiously badly beautifully boldly bravely brightly calmly carefully cleverly coldly correctly curiously eagerly easily
elegantly exactly fairly gladly honestly hungrily loudly lazily lightly loosely madly mildly neatly nicely perfectly plainly properly proudly
quickly quietly rapidly rarely really richly roughly rudely sadly safely seriously sharply smartly smoothly softly solidly steadily strictly
sweetly swiftly thickly thinly tightly warmly weakly wildly wisely nervously usually freely firmly fiercely""".split()  # noqa: SIM905
_HELD_OUT_COMMAND, _HELD_OUT_QUESTION = "Would you kindly {c}?", "Could you please tell me: {c}?"


def _frame(frame: str, text: str) -> str:
    return frame.replace("{C}", text[0].upper() + text[1:]).replace("{c}", text)


def phrased(commands: Iterable[str] = (), questions: Iterable[str] = ()) -> tuple[str, ...]:
    """Every command and question in each of its frames; the last wording is the held-out one, of the first of them."""
    commands, questions = list(commands), list(questions)
    trained = [_frame(frame, text) for text in commands for frame in _COMMANDS]
    trained += [_frame(frame, text) for text in questions for frame in _QUESTIONS]
    held_out = (
        _frame(_HELD_OUT_COMMAND, commands[0]) if commands else _frame(_HELD_OUT_QUESTION, questions[0])
    )
    return (*trained, held_out)


def with_adverb(text: str, rng: random.Random) -> str:
    """The text with an adverb where a frame has room for one."""
    if "<" not in text:
        return text
    adverb = rng.choice(ADVERBS)
    return text.replace("<adverb>", adverb).replace("<Adverb>", adverb.capitalize())


def filled(phrases: Iterable[str], **choices: Iterable[str]) -> list[str]:
    """Every phrase with every choice for each <name> in it."""
    found = list(phrases)
    for name, values in choices.items():
        found = list(dict.fromkeys(text.replace(f"<{name}>", value) for text in found for value in values))
    return found
