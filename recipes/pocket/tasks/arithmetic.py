# ruff: noqa: E501  (tables)
"""The four operations with the steps written out, as one does it on paper.

Every step is a short line over single digits. A small model cannot look up "the digit third from the end" of a number
reliably while it also computes, so the operands are first written backwards, units first; then column k is the k-th digit,
carries travel in reading direction, and the digits of the result come out in the order in which they are known. A sum is
always written with two digits, the carry and the units. The last line turns the result around:

    347 + 86, backwards 743 + 68
    7+6+0=13
    4+8+1=13
    3+0+1=04, digits 334, forwards 433

Division goes from the front, where long division begins. What is returned is computed with Python's integers as well, and the
two must agree.
"""

import random
import re
from collections.abc import Callable

from recipes.pocket.problem import Problem, Task, held_out
from recipes.pocket.wording import filled, phrased


def result(a: int, op: str, b: int) -> int:
    """Of one of + - * / (whole division)."""
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]


def steps(a: int, op: str, b: int) -> str:
    """The written working; it ends in the result's digits (without a minus sign)."""
    working = f"{a} {op} {b}{_WORKING[op](a, b)}"
    assert int(working.rpartition(" rest ")[0 if op == "/" else 2].rpartition(" ")[2]) == abs(
        result(a, op, b)
    )
    return working


def _backwards(number: int) -> str:
    return str(number)[::-1]


def _add_columns(x: str, y: str) -> tuple[str, str]:
    """Adds two numbers given backwards, column by column: the lines, and the sum backwards."""
    lines, digits, carry = "", "", 0
    for k in range(max(len(x), len(y))):
        left, right = int(x[k : k + 1] or 0), int(y[k : k + 1] or 0)
        total = left + right + carry
        lines += f"\n{left}+{right}+{carry}={total:02}"
        digits, carry = digits + str(total % 10), total // 10
    return lines, digits + (str(carry) if carry else "")


def _finish(digits: str) -> str:
    """The digits of a result, and the result: without the zeros that stand in front of it."""
    return f", digits {digits}, forwards {digits[::-1].lstrip('0') or '0'}"


def _addition(a: int, b: int) -> str:
    x, y = _backwards(a), _backwards(b)
    lines, digits = _add_columns(x, y)
    return f", backwards {x} + {y}{lines}{_finish(digits)}"


def _subtraction(a: int, b: int) -> str:
    """Column by column, without asking which is larger: a borrow that is left over at the end says that it was the
    second, and the result is what the other order gives, with a minus. (To compare two numbers at a glance is what a
    small model gets wrong; the last borrow it reads off.)
    """
    lines, digits, borrow = _subtract_columns(_backwards(a), _backwards(b))
    if borrow:
        more, digits, borrow = _subtract_columns(_backwards(b), _backwards(a))
        lines += f", borrow left, negative{more}"
    assert borrow == 0
    return lines + _finish(digits)


def _subtract_columns(x: str, y: str) -> tuple[str, str, int]:
    """Subtracts two numbers given backwards: the lines, the difference backwards, the borrow that is left."""
    lines, digits, borrow = f", backwards {x} - {y}", "", 0
    for k in range(max(len(x), len(y))):
        left, right = int(x[k : k + 1] or 0), int(y[k : k + 1] or 0)
        total = left - right - borrow
        lines += f"\n{left}-{right}-{borrow}={total % 10} borrow {int(total < 0)}"
        digits, borrow = digits + str(total % 10), int(total < 0)
    return lines, digits, borrow


def _multiplication(a: int, b: int) -> str:
    """One partial product for each digit of the shorter number, the second one shifted, then their sum."""
    x, y = _backwards(a), _backwards(b)
    if len(y) > len(x):
        x, y = y, x
    assert len(y) <= 2, "the working is defined for a factor of at most two digits"
    lines, partials = f", backwards {x} * {y}", []
    for shift, factor in enumerate(y):
        more, digits = _times_digit(x, int(factor))
        partials.append("0" * shift + digits)
        lines += f"\n{x} * {factor}{more}, digits {partials[-1]}"
    if len(partials) == 1:
        return f"{lines}, forwards {partials[0][::-1].lstrip('0') or '0'}"
    more, digits = _add_columns(*partials)
    return f"{lines}\n{partials[0]} + {partials[1]}{more}{_finish(digits)}"


def _times_digit(x: str, factor: int) -> tuple[str, str]:
    lines, digits, carry = "", "", 0
    for digit in map(int, x):
        total = digit * factor + carry
        lines += f"\n{digit}*{factor}+{carry}={total:02}"
        digits, carry = digits + str(total % 10), total // 10
    return lines, digits + (str(carry) if carry else "")


def _division(a: int, b: int) -> str:
    """Long division by one digit: each digit of the dividend behind what was left of the ones before; the
    product stands between quotient and rest, so that the rest is a difference and not a table.
    """
    lines, digits, rest = "", "", 0
    for digit in str(a):
        part = int(f"{rest}{digit}")
        lines += f"\n{rest}{digit}/{b}={part // b} {part // b * b:02} rest {part % b}"
        digits, rest = digits + str(part // b), part % b
    return f"{lines}, digits {digits}, so {int(digits)} rest {rest}"


_WORKING: dict[str, Callable[[int, int], str]] = {
    "+": _addition,
    "-": _subtraction,
    "*": _multiplication,
    "/": _division,
}

_COMMANDS = (
    "work out <x>", "compute <x>", "calculate <x>", "solve <x>", "evaluate <x>", "find <x>", "figure out <x>", "tell me <x>", "give me the result of <x>",
    "tell me what <x> is",
)  # fmt: skip
_QUESTIONS = (
    "what is <x>", "how much is <x>", "what does <x> equal", "what do you get for <x>", "what's <x>", "what does <x> make", "what about <x>", "<x>", "<x> =", "<x> = ",
    "what is the result of <x>",
)  # fmt: skip
_OWN = {
    "+": ("add {a} and {b}", "add {b} to {a}", "add up {a} and {b}"),
    "-": ("subtract {b} from {a}", "take {b} away from {a}", "take {b} from {a}"),
    "*": ("multiply {a} by {b}", "multiply {a} and {b}", "multiply {a} with {b}"),
    "/": ("divide {a} by {b}", "divide {a} by {b} with remainder"),
}
_NAMED = {
    "+": "the sum of {a} and {b}",
    "-": "the difference of {a} and {b}",
    "*": "the product of {a} and {b}",
    "/": "the quotient of {a} and {b}",
}
_WRITTEN = {
    "+": ("{a} + {b}", "{a}+{b}", "{a} plus {b}"),
    "-": ("{a} - {b}", "{a}-{b}", "{a} minus {b}"),
    "*": ("{a} * {b}", "{a}*{b}", "{a} times {b}", "{a} x {b}"),
    "/": ("{a} / {b}", "{a}/{b}", "{a} divided by {b}"),
}


def _wordings(op: str) -> tuple[str, ...]:
    written = (*_WRITTEN[op], _NAMED[op])
    return phrased([*filled(_COMMANDS, x=written), *_OWN[op] * 3], filled(_QUESTIONS, x=written))


WORDINGS = {op: _wordings(op) for op in _WRITTEN}


def number(rng: random.Random, num_digits: int) -> int:
    """A number of exactly num_digits digits (0 counts as one): uniform, or of two digits only, which are the hard ones
    to copy.
    """
    if num_digits > 2 and rng.random() < 0.2:
        first, second = rng.sample("0123456789", 2)
        text = "".join(rng.choices((first, second), k=num_digits))
        if text[0] != "0":
            return int(text)
    return rng.randrange(10 ** (num_digits - 1) if num_digits > 1 else 0, 10**num_digits)


def equation(a: int, op: str, b: int) -> str:
    """What is said: the whole equation; a division that leaves something says so."""
    rest = f" remainder {a % b}" if op == "/" and a % b else ""
    return f"{a} {op} {b} = {result(a, op, b)}{rest}."


def key(a: int, op: str, b: int) -> str:
    """What decides whether a problem is held out, both orders of a sum or product together.

    "" where so few digits are asked for that all such problems are known by heart.
    """
    if len(str(a)) + len(str(b)) < (3 if op == "/" else 4):
        return ""
    a, b = (min(a, b), max(a, b)) if op in "+*" else (a, b)
    return f"{a} {op} {b}"


def shows_held_out(text: str) -> bool:
    """Whether a held-out problem stands in a text, as a step of another problem may."""
    found = (key(int(a), op, int(b)) for a, op, b in re.findall(r"(\d+) ([-+*/]) (\d+)", text))
    return any(name and held_out(name) for name in found)


def problem(a: int, op: str, b: int) -> Problem:
    """The plain problem."""
    answer = equation(a, op, b)
    return Problem(
        WORDINGS[op],
        steps(a, op, b),
        answer,
        fields={"a": a, "b": b},
        short=answer.rsplit("= ", 1)[1].rstrip("."),
        value=result(a, op, b),
        key=key(a, op, b),
    )


def _draw_addition(rng: random.Random) -> Problem:
    return problem(number(rng, rng.randint(1, 5)), "+", number(rng, rng.randint(1, 5)))


def _draw_subtraction(rng: random.Random) -> Problem:
    """Half of them near each other: where it takes more than the first digit to see the sign."""
    a, b = number(rng, rng.randint(1, 5)), number(rng, rng.randint(1, 5))
    if rng.random() < 0.3:
        b = min(99_999, abs(a + rng.choice((-1, 1)) * number(rng, rng.randint(1, len(str(a))))))
    elif rng.random() < 0.15:  # the same leading digits
        same = rng.randint(0, len(str(a)) - 1)
        b = int(str(a)[:same] + str(number(rng, len(str(a)) - same)))
    if a < b and rng.random() < 0.7:
        a, b = b, a
    return problem(a, "-", b)


def _draw_multiplication(rng: random.Random) -> Problem:
    longer, shorter = (3, 2) if rng.random() < 0.5 else (rng.randint(1, 3), rng.randint(1, 2))
    a, b = number(rng, longer), number(rng, shorter)
    return problem(b, "*", a) if rng.random() < 0.25 else problem(a, "*", b)


def _draw_division(rng: random.Random) -> Problem:
    return problem(number(rng, rng.randint(1, 3)), "/", rng.randint(2, 9))


TASKS = (
    Task("addition", 5, _draw_addition, direct=0.1),
    Task("subtraction", 8, _draw_subtraction, direct=0.08),
    Task("multiplication", 8, _draw_multiplication, direct=0.08),
    Task("division", 7, _draw_division, direct=0.12),
)
