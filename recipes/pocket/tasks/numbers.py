# ruff: noqa: E501  (tables)
"""Comparing decimals and sorting whole numbers, without judging at a glance.

Decimals are written with equally many digits before and behind the point; then the first pair of digits that differs decides:

    9.11 or 9.9:  9.11 9.90 9=9 1<9, 9.11 is smaller

Numbers to sort are written with equally many digits and dealt into groups by their first digit, as one sorts letters into pigeonholes; a
group is small enough to be seen at once:

    34 7 12 18:   34 07 12 18 / 0 07 / 1 12 18 / 3 34
"""

import random
from collections.abc import Sequence

from recipes.pocket.problem import Problem, Task

_LARGER = (
    "Which is larger, {a} or {b}?", "Which number is larger: {a} or {b}?", "which is larger, {a} or {b}", "Which is bigger, {a} or {b}?",
    "What is larger, {a} or {b}?", "Is {a} or {b} larger?", "Is {a} or {b} the larger number?", "Which is greater: {a} or {b}?",
    "Compare {a} and {b}: which is larger?", "Tell me the larger of {a} and {b}.", "{a} or {b}: which is more?", "What's bigger, {a} or {b}?",
    "Find the larger number: {a}, {b}.", "The larger of {a} and {b}, please.",
    "Of {a} and {b}, which one is the larger?",
)  # fmt: skip
_SMALLER = (
    "Which is smaller, {a} or {b}?", "Which number is smaller: {a} or {b}?", "which is smaller, {a} or {b}", "Which is less, {a} or {b}?",
    "What is smaller, {a} or {b}?", "Is {a} or {b} smaller?", "Is {a} or {b} the smaller number?", "What's smaller, {a} or {b}?",
    "Compare {a} and {b}: which is smaller?", "Tell me the smaller of {a} and {b}.", "{a} or {b}: which is less?",
    "Find the smaller number: {a}, {b}.", "The smaller of {a} and {b}, please.",
    "Of {a} and {b}, which one is the smaller?",
)  # fmt: skip
_UP = (
    "Sort these numbers: {list}.", "Sort {list}.", "sort {list}", "Sort the numbers {list}", "Put {list} in order.", "Order these numbers: {list}",
    "Sort {list} from smallest to largest.", "Sort {list} in ascending order.", "Arrange {list} from small to large.", "Please sort {list}.",
    "Can you sort {list}?", "{list}: sort them", "Sort this list: {list}", "Put these numbers in ascending order: {list}.",
    "Bring {list} into order, smallest first.",
)  # fmt: skip
_DOWN = (
    "Sort {list} from largest to smallest.", "Sort {list} in descending order.", "sort {list} descending", "Arrange {list} from large to small.",
    "Put {list} in descending order.", "Order these numbers from largest to smallest: {list}", "Sort these numbers, largest first: {list}.",
    "Please sort {list} in descending order.", "Can you sort {list} from largest to smallest?", "Sort this list from large to small: {list}",
    "Bring {list} into order, largest first.",
)  # fmt: skip


def _decimal(rng: random.Random, whole: int) -> str:
    places = rng.randint(1, 3)
    return f"{whole}.{rng.randrange(1, 10**places):0{places}}"


def _compare(rng: random.Random) -> Problem:
    """Mostly the same whole part, and often the same first digits, as in 9.11 and 9.9."""
    whole = rng.randint(0, 9) if rng.random() < 0.6 else rng.randint(10, 99)
    a = _decimal(rng, whole)
    b = _decimal(rng, whole if rng.random() < 0.75 else rng.randint(0, 99))
    if rng.random() < 0.3:  # the same first digit behind the point
        kept = a[: a.index(".") + 2]
        b = kept + (str(rng.randrange(10 ** rng.randint(1, 2))) if rng.random() < 0.7 else "")
    if float(a) == float(b):
        return _compare(rng)
    larger = rng.random() < 0.6
    answer = max(a, b, key=float) if larger else min(a, b, key=float)
    said = f"{answer} is {'larger' if larger else 'smaller'}."
    wordings = _LARGER if larger else _SMALLER
    fields, key = {"a": a, "b": b}, f"compare {a} {b}"
    return Problem(wordings, compared(a, b), said, fields, short=answer, value=float(answer), key=key)


def compared(a: str, b: str) -> str:
    """The working: both padded, digit by digit to the first that differs."""
    (whole_a, part_a), (whole_b, part_b) = a.split("."), b.split(".")
    before, behind = max(len(whole_a), len(whole_b)), max(len(part_a), len(part_b))
    x = f"{whole_a:0>{before}}.{part_a:0<{behind}}"
    y = f"{whole_b:0>{before}}.{part_b:0<{behind}}"
    lines = [f"{x} {y}"]
    for left, right in zip(x.replace(".", ""), y.replace(".", ""), strict=True):
        sign = "=" if left == right else "<" if left < right else ">"
        lines.append(f"{left}{sign}{right}")
        if sign != "=":
            break
    smaller = min(a, b, key=float)
    return f"{' '.join(lines)}, {smaller} is smaller"


def _sort(rng: random.Random) -> Problem:
    digits = rng.choice((1, 2, 2, 2, 3))
    numbers = rng.sample(range(10**digits), rng.randint(3, 6))
    if digits == 3 and rng.random() < 0.3:
        numbers[0] = rng.randrange(100)
    descending = rng.random() < 0.3
    answer = ", ".join(map(str, sorted(numbers, reverse=descending)))
    separator = rng.choice((", ", ", ", ", ", " "))
    fields = {"list": separator.join(map(str, numbers))}
    steps = grouped(numbers, descending=descending)
    key = "sort " + " ".join(map(str, numbers))
    return Problem(_DOWN if descending else _UP, steps, answer, fields, answer, answer, key)


def grouped(numbers: Sequence[int], *, descending: bool) -> str:
    """The working: padded, then one line for each first digit that occurs, in order."""
    width = len(str(max(numbers)))
    padded = [f"{number:0{width}}" for number in numbers]
    if width == 1:
        return " ".join(padded)
    lines = [" ".join(padded)]
    for digit in sorted({text[0] for text in padded}, reverse=descending):
        group = sorted((text for text in padded if text[0] == digit), reverse=descending)
        lines.append(f"{digit}: {' '.join(group)}")
    return "\n".join(lines)


TASKS = (
    Task("comparing decimals", 5, _compare, direct=0.2),
    Task("sorting numbers", 6.5, _sort, direct=0.15),
)
