# ruff: noqa: E501  (tables)
"""Chats that refer back: to the last result, to a word, to a name that was told some turns ago."""

import random

from recipes.pocket.problem import Message, Problem, Task
from recipes.pocket.tasks import spelling
from recipes.pocket.tasks.arithmetic import WORDINGS, equation, result, steps
from recipes.pocket.tasks.objects import proper_name
from recipes.pocket.tasks.stories import NAMES
from recipes.pocket.wording import phrased, with_adverb

_AGAIN = {
    "+": phrased(("add {b} to that", "add {b}", "add {b} to it", "take that and add {b}"), ("what is that plus {b}", "plus {b}", "what if you add {b}", "how much is that plus {b}")),
    "-": phrased(("subtract {b} from that", "subtract {b}", "take away {b}", "take that and subtract {b}"), ("what is that minus {b}", "minus {b}", "what if you subtract {b}", "how much is that minus {b}")),
    "*": phrased(("multiply that by {b}", "multiply by {b}", "multiply it by {b}", "take that and multiply by {b}"), ("what is that times {b}", "times {b}", "what if you multiply by {b}", "how much is that times {b}")),
}  # fmt: skip
_WORD_AGAIN = phrased(
    (
        "reverse it",
        "write it backwards",
        "turn it around",
        "reverse that word",
        "say it backwards",
        "write that in reverse",
    ),
    ("what is it backwards", "what is that backwards", "backwards", "what is it in reverse"),
)
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
_NAME_ASKED = phrased(
    ("tell me my name", "say my name"),
    ("what is my name", "who am I", "what am I called", "do you remember my name", "what was my name"),
)


def _said(question: str, answer: str) -> tuple[Message, Message]:
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def _small(rng: random.Random) -> tuple[str, int, str]:
    """A sum small enough to be said at once: question, result, answer."""
    a, op, b = rng.randint(1, 20), rng.choice("+-*"), rng.randint(1, 10)
    if op == "-":
        a, b = max(a, b), min(a, b)
    if op == "*":
        a = rng.randint(1, 10)
    asked = with_adverb(rng.choice(WORDINGS[op][:-1]), rng).format(a=a, b=b)
    return asked, result(a, op, b), equation(a, op, b)


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
