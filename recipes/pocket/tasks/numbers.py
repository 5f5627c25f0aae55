# ruff: noqa: E501  (tables)
"""Comparing decimals and sorting whole numbers, without judging at a glance.

Decimals are written with equally many digits before and behind the point; then the first pair of digits that differs decides:

    9.11 or 9.9:  9.11 9.90 9=9 1<9, so 9.9 is larger

Numbers to sort are written with equally many digits and put one after the other into a list that is in order, as one sorts cards in the hand:
the new number stands beside each of the list until one is larger, and goes before it. Each line is short and asks one thing at a time. For a
falling order the finished list is written backwards:

    34 7 12, falling:   down 34 07 12 / 34 / 07 34< / 07 34 / 12 07> 12 34< / 07 12 34 / down 34 12 07
"""

import random
from collections.abc import Sequence

from recipes.pocket.problem import Problem, Task
from recipes.pocket.wording import filled, phrased

_COMPARE = (
    "tell me which is <more>, {a} or {b}", "find the <more> of {a} and {b}", "say which number is <more>: {a} or {b}", "compare {a} and {b} and say which is <more>",
    "pick the <more> number: {a} or {b}", "give me the <more> of {a} and {b}",
)  # fmt: skip
_COMPARED = (
    "which is <more>, {a} or {b}", "which number is <more>, {a} or {b}", "what is <more>, {a} or {b}", "is {a} or {b} <more>", "which of {a} and {b} is <more>",
    "which one is <more>: {a} or {b}", "what's <more>, {a} or {b}", "which is the <more> number, {a} or {b}",
)  # fmt: skip
_LARGER = phrased(
    filled(_COMPARE, more=("larger", "bigger", "greater")),
    filled(_COMPARED, more=("larger", "bigger", "greater")),
)
_SMALLER = phrased(filled(_COMPARE, more=("smaller", "lower")), filled(_COMPARED, more=("smaller", "lower")))
_SORT = (
    "sort <l><how>",
    "order <l><how>",
    "arrange <l><how>",
    "put <l> in order<how>",
    "bring <l> into order<how>",
    "list <l><how>",
)
_LIST = ("{list}", "the numbers {list}", "these numbers: {list}", "{list}")
_UP = phrased(
    filled(
        _SORT[:-1], l=_LIST, how=("", " from smallest to largest", ", smallest first", " from low to high")
    )
    + filled(_SORT[:3], l=_LIST, how=(" in ascending order", " in increasing order"))
)
_DOWN = phrased(
    filled(_SORT, l=_LIST, how=(" from largest to smallest", ", largest first", " from high to low"))
    + filled(_SORT[:3], l=_LIST, how=(" in descending order", " in decreasing order", " descending"))
)


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
    return Problem(wordings, compared(a, b, said), said, fields, short=answer, value=float(answer), key=key)


def compared(a: str, b: str, said: str) -> str:
    """The working: both padded, digit by digit to the first that differs; then what is said."""
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
    return f"{' '.join(lines)}, so {said.rstrip('.')}"


def _sort(rng: random.Random) -> Problem:
    digits = rng.choice((1, 2, 2, 3, 3))
    numbers = rng.sample(range(10**digits), rng.randint(3, 6))
    if digits > 1 and rng.random() < 0.4:  # of different lengths
        kept = rng.randint(1, len(numbers) - 1)
        short = rng.sample(range(10 ** rng.randint(1, digits - 1)), kept)
        numbers = rng.sample([*{*numbers[kept:], *short}], len({*numbers[kept:], *short}))
    descending = rng.random() < 0.3
    answer = ", ".join(map(str, sorted(numbers, reverse=descending)))
    separator = rng.choice((", ", ", ", ", ", " "))
    fields = {"list": separator.join(map(str, numbers))}
    steps = inserted(numbers, descending=descending)
    key = "sort " + " ".join(map(str, numbers))
    return Problem(_DOWN if descending else _UP, steps, answer, fields, answer, answer, key)


def inserted(numbers: Sequence[int], *, descending: bool) -> str:
    """The working: padded, then each number beside those of the list so far, and the list with it."""
    width = len(str(max(numbers)))
    first, *others = [f"{number:0{width}}" for number in numbers]
    done = [first]
    lines = [" ".join(["down" if descending else "up", first, *others]), first]
    for new in others:
        place = sum(old < new for old in done)
        beside = [f"{new} {old}{'>' if old < new else '<'}" for old in done[: place + 1]]
        done.insert(place, new)
        lines += [" ".join(beside), " ".join(done)]
    return "\n".join([*lines, " ".join(["down", *reversed(done)])] if descending else lines)


TASKS = (
    Task("comparing decimals", 5, _compare, direct=0.2),
    Task("sorting numbers", 12, _sort, direct=0.12),
)
