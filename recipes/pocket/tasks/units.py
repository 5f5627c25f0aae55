# ruff: noqa: E501  (tables)
"""Converting units: to the smaller one by multiplying, to the larger one by dividing, always whole numbers.

7 days in hours:  days to hours: times 24, then the written multiplication
3000 g in kg:     g to kg: divided by 1000, 3000 / 1000 = 3
660 s in min:     s to min: divided by 60, 660 / 10 = 66, then 66 / 6 by long division (12 is 2 and 6, 24 is 4 and 6)
"""

import random

from recipes.pocket.problem import Problem, Task
from recipes.pocket.tasks import arithmetic
from recipes.pocket.wording import phrased

# larger, smaller, how many smaller ones make one; the first name of each is said in the answer
_METRIC = (
    (("km", "kilometers"), ("m", "meters"), 1000), (("m", "meters"), ("cm", "centimeters"), 100), (("cm", "centimeters"), ("mm", "millimeters"), 10),
    (("kg", "kilograms"), ("g", "grams"), 1000), (("g", "grams"), ("mg", "milligrams"), 1000), (("l", "liters"), ("ml", "milliliters"), 1000),
    (("euros",), ("cents",), 100), (("dollars",), ("cents",), 100),
)  # fmt: skip
_OTHERS = (
    (("hours", "h"), ("minutes", "min"), 60), (("minutes", "min"), ("seconds", "s"), 60), (("days",), ("hours", "h"), 24), (("weeks",), ("days",), 7),
    (("years",), ("months",), 12), (("feet", "ft"), ("inches", "in"), 12), (("yards",), ("feet", "ft"), 3), (("dozens",), ("pieces",), 12),
)  # fmt: skip
_WORDINGS = phrased(
    ("convert {n} {unit} to {to}", "convert {n} {unit} into {to}", "turn {n} {unit} into {to}", "express {n} {unit} in {to}", "change {n} {unit} into {to}", "tell me how many {to} {n} {unit} are", "give me {n} {unit} in {to}"),
    ("how many {to} are {n} {unit}", "how many {to} are in {n} {unit}", "what is {n} {unit} in {to}", "how much is {n} {unit} in {to}", "how many {to} do {n} {unit} make", "{n} {unit} are how many {to}", "{n} {unit} in {to}", "{n} {unit} to {to}"),
)  # fmt: skip


def _divided(n: int, factor: int) -> str:
    """By parts of one digit, one after the other."""
    lines = []
    for part in {60: (10, 6), 24: (4, 6), 12: (2, 6)}.get(factor, (factor,)):
        lines.append(f"{n} / 10 = {n // 10}" if part == 10 else arithmetic.steps(n, "/", part))
        n //= part
    return "\n".join(lines)


def _convert(rng: random.Random) -> Problem:
    large, small, factor = rng.choice(_METRIC if rng.random() < 0.55 else _OTHERS)
    count = rng.randint(2, 99) if rng.random() < 0.7 else rng.randint(100, 999)
    down = rng.random() < 0.7
    if factor not in (10, 100, 1000) and not down:
        count = rng.randint(2, 40)
    n, unit, to, value = (
        (count, large, small, count * factor) if down else (count * factor, small, large, count)
    )
    first = f"{unit[0]} to {to[0]}: {'times' if down else 'divided by'} {factor}"
    if factor in (10, 100, 1000):
        working = f"{n} {'*' if down else '/'} {factor} = {value}"
    elif not down:
        working = _divided(n, factor)
    else:
        working = arithmetic.steps(count, "*", factor)
    fields = {"n": n, "unit": rng.choice(unit), "to": rng.choice(to)}
    said = f"{n} {fields['unit']} = {value} {fields['to']}."
    key = f"units {n} {unit[0]} {to[0]}"
    return Problem(_WORDINGS, f"{first}\n{working}", said, fields, f"{value} {fields['to']}", value, key)


TASKS = (Task("unit conversion", 4.5, _convert, direct=0.2),)
