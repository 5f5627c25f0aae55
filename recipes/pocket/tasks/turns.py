# ruff: noqa: E501  (tables)
"""Chats that refer back: to the last result, to a word, to a name that was told some turns ago."""

import random

from recipes.pocket.problem import Message, Problem, Task
from recipes.pocket.tasks import spelling
from recipes.pocket.tasks.arithmetic import WORDINGS, equation, result, steps
from recipes.pocket.tasks.objects import proper_name
from recipes.pocket.tasks.stories import NAMES

_AGAIN = {
    "+": ("And plus {b}?", "Add {b} to that.", "Now add {b}.", "plus {b}", "Then add {b}.", "And what is that plus {b}?", "Add {b}", "And if you add {b}?", "Take that and add {b}."),
    "-": ("And minus {b}?", "Subtract {b} from that.", "Now subtract {b}.", "minus {b}", "Then take away {b}.", "And what is that minus {b}?", "Take away {b}", "And if you subtract {b}?", "Take that and subtract {b}."),
    "*": ("And times {b}?", "Multiply that by {b}.", "Now multiply by {b}.", "times {b}", "Then multiply it by {b}.", "And what is that times {b}?", "Multiply by {b}", "And if you multiply by {b}?", "Take that and multiply by {b}."),
}  # fmt: skip
_WORD_AGAIN = (
    "And backwards?", "Now reverse it.", "And in reverse?", "Write it backwards.", "Turn it around.", "Now backwards, please.", "Reverse that word.", "And the other way round?",
    "What is it backwards?",
)  # fmt: skip
_NAME_TOLD = (
    "My name is {name}.",
    "I am {name}.",
    "Hi, I am {name}.",
    "Call me {name}.",
    "Hello, my name is {name}.",
    "You can call me {name}.",
    "I'm {name}.",
    "People call me {name}.",
)
_NAME_ASKED = (
    "What is my name?", "Who am I?", "what is my name", "Do you remember my name?", "What am I called?", "Tell me my name.", "Say my name.", "And what was my name?",
    "Can you still tell me my name?",
)  # fmt: skip


def _said(question: str, answer: str) -> tuple[Message, Message]:
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def _small(rng: random.Random) -> tuple[str, int, str]:
    """A sum small enough to be said at once: question, result, answer."""
    a, op, b = rng.randint(1, 20), rng.choice("+-*"), rng.randint(1, 10)
    if op == "-":
        a, b = max(a, b), min(a, b)
    if op == "*":
        a = rng.randint(1, 10)
    return rng.choice(WORDINGS[op][:-1]).format(a=a, b=b), result(a, op, b), equation(a, op, b)


def _result_again(rng: random.Random) -> Problem:
    question, value, answer = _small(rng)
    op, b = rng.choice("+-*"), rng.randint(2, 99)
    if op == "-":
        b = rng.randint(0, value)
    said = equation(value, op, b)
    key = f"again {answer} {op} {b}"
    found = result(value, op, b)
    return Problem(
        _AGAIN[op],
        steps(value, op, b),
        said,
        {"b": b},
        str(found),
        found,
        key,
        before=_said(question, answer),
    )


def _word_again(rng: random.Random) -> Problem:
    turned = spelling.TASKS[1].draw(rng)
    word = str(turned.fields["word"])
    question = f"Spell {rng.choice(('', 'the word '))}{word}."
    before = _said(question, "-".join(word))
    return Problem(
        _WORD_AGAIN,
        turned.steps,
        turned.answer,
        {},
        turned.answer,
        turned.answer,
        turned.key,
        10,
        before=before,
    )


def _name_again(rng: random.Random) -> Problem:
    name = proper_name(rng, NAMES)
    before = list(_said(rng.choice(_NAME_TOLD).format(name=name), f"Hello {name}!"))
    if rng.random() < 0.5:
        question, _, answer = _small(rng)
        before += _said(question, answer)
    return Problem(
        _NAME_ASKED,
        f"name {name}",
        f"Your name is {name}.",
        {},
        name,
        name,
        f"name {name}",
        10,
        before=tuple(before),
    )


def _turns(rng: random.Random) -> Problem:
    kind = rng.random()
    return _result_again(rng) if kind < 0.55 else _word_again(rng) if kind < 0.75 else _name_again(rng)


TASKS = (Task("referring back", 4.5, _turns, direct=0.2),)
