# ruff: noqa: E501  (tables)
"""Obeying a system prompt: in which language to say a number, and how briefly to answer."""

import random
from dataclasses import replace

from recipes.pocket.problem import Problem, Task
from recipes.pocket.tasks import calendar, numbers, spelling, stories
from recipes.pocket.tasks.arithmetic import WORDINGS, problem, result, shows_held_out
from recipes.pocket.tasks.arithmetic import steps as working

NUMBERS = {
    "English": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split(),  # noqa: SIM905
    "German": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn zwanzig".split(),  # noqa: SIM905
    "French": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit dix-neuf vingt".split(),  # noqa: SIM905
    "Spanish": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete dieciocho diecinueve veinte".split(),  # noqa: SIM905
}
_LANGUAGE = (
    "Say numbers in {language}.", "Write numbers as {language} words.", "Answer with {language} number words.", "Numbers are written in {language}.",
    "Always say numbers in {language}.", "You are a teacher of {language}. Say every number in {language}.", "Use {language} words for numbers.",
    "Give each number as a {language} word.", "Speak numbers in {language} only.",
    "Please put numbers into {language} words.",
)  # fmt: skip
_BRIEF = (
    "Be brief.", "Answer with the result only.", "Only give the result.", "Answer as briefly as you can.", "Reply with nothing but the result.", "Keep it short.",
    "Just the result, please.", "No sentences: only the result.", "Short answers only.",
    "Give only the result, nothing else.",
)  # fmt: skip
_NEUTRAL = (
    "You are a helpful assistant.", "You are pocket.", "You are a calculator.", "Answer politely.", "You are a friendly bot.", "Always answer in English.",
    "You are a helpful and precise teacher.", "You are an assistant that explains language models.", "Think before you answer.", "Help the user.",
)  # fmt: skip


def neutral(rng: random.Random) -> str:
    """A system prompt that changes nothing."""
    return rng.choice(_NEUTRAL)


def _language(rng: random.Random, system: str) -> Problem:
    language = rng.choice(list(NUMBERS))
    while True:
        a, op, b = rng.randint(0, 20), rng.choice("+-*"), rng.randint(0, 20)
        if 0 <= (value := result(a, op, b)) <= 20 and not shows_held_out(f"{a} {op} {b}"):
            break
    word = NUMBERS[language][value]
    steps = f"{working(a, op, b)}\n{value} in {language}: {word}"
    before = ({"role": "system", "content": system.format(language=language)},)
    key = f"{language} {a} {op} {b}"
    return Problem(WORDINGS[op], steps, word, {"a": a, "b": b}, word, word, key, before=before)


def _short(rng: random.Random, system: str) -> Problem:
    """A problem of another task, of which only the result is said."""
    kind = rng.random()
    if kind < 0.4:
        found = problem(rng.randint(1, 999), rng.choice("+-"), rng.randint(1, 99))
    else:
        task = rng.choice((spelling.TASKS[2], numbers.TASKS[0], calendar.TASKS[0], stories.TASKS[0]))
        found = task.draw(rng)
    return replace(found, answer=found.short, before=({"role": "system", "content": system},))


def _system(rng: random.Random) -> Problem:
    return (
        _language(rng, rng.choice(_LANGUAGE[:-1]))
        if rng.random() < 0.5
        else _short(rng, rng.choice(_BRIEF[:-1]))
    )


def _unseen(rng: random.Random) -> Problem:
    """With a system prompt that training does not have."""
    return _language(rng, _LANGUAGE[-1]) if rng.random() < 0.5 else _short(rng, _BRIEF[-1])


TASKS = (Task("obeying the system prompt", 5, _system, direct=0.15, unseen=_unseen),)
