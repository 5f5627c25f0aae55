# ruff: noqa: E501  (tables)
"""Addition, subtraction and multiplication with the steps written out, as one does it on paper.

Every step is a short line over single digits. A small model cannot look up "the digit third from the end"
of a number reliably while it also computes, so the operands are first written backwards, units first; then
column k is simply the k-th digit, carries travel in reading direction, and the digits of the result come
out in the order in which they are known. The last line turns the result around:

    347 + 86
    backwards 743 + 68
    7+6+0=13: 3 carry 1
    4+8+1=13: 3 carry 1
    3+0+1=4: 4 carry 0
    digits 334
    forwards 433

What is returned is computed with Python's integers as well, and the two must agree.
"""

import hashlib
import random
from dataclasses import dataclass

OPERATORS = ("+", "-", "*")


@dataclass(frozen=True)
class Problem:
    """Two non-negative integers and an operator out of OPERATORS."""

    a: int
    op: str
    b: int

    @property
    def text(self) -> str:
        return f"{self.a} {self.op} {self.b}"

    @property
    def result(self) -> int:
        return {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b}[self.op]

    @property
    def answer(self) -> str:
        return f"{self.text} = {self.result}."

    @property
    def held_out(self) -> bool:
        """True for 1 in 40 of the problems that are too many to be learned by heart; decided by a hash of
        the numbers.
        """
        if len(str(self.a)) + len(str(self.b)) < 4:
            return False
        digest = hashlib.sha256(self.text.encode()).digest()
        return int.from_bytes(digest[:4], "big") % 40 == 0


def steps(problem: Problem) -> str:
    """The written working of a problem; its last line ends in the result's digits (without a minus sign)."""
    lines = {"+": _addition, "-": _subtraction, "*": _multiplication}[problem.op](problem.a, problem.b)
    assert int(lines[-1].rsplit(" ", 1)[1]) == abs(problem.result), (problem, lines)
    return "\n".join([problem.text, *lines])


def _backwards(number: int) -> str:
    return str(number)[::-1]


def _add_columns(x: str, y: str) -> tuple[list[str], str]:
    """Adds two numbers given backwards, column by column: the lines, and the sum backwards."""
    lines, digits, carry = [], "", 0
    for k in range(max(len(x), len(y))):
        left, right = int(x[k : k + 1] or 0), int(y[k : k + 1] or 0)
        total = left + right + carry
        lines.append(f"{left}+{right}+{carry}={total}: {total % 10} carry {total // 10}")
        digits, carry = digits + str(total % 10), total // 10
    return lines, digits + (str(carry) if carry else "")


def _finish(digits: str) -> list[str]:
    return [f"digits {digits}", f"forwards {digits[::-1]}"]


def _addition(a: int, b: int) -> list[str]:
    x, y = _backwards(a), _backwards(b)
    lines, digits = _add_columns(x, y)
    return [f"backwards {x} + {y}", *lines, *_finish(digits)]


def _subtraction(a: int, b: int) -> list[str]:
    """Column by column, without asking which is larger: a borrow that is left over at the end says that it was the
    second, and the result is what the other order gives, with a minus. (To compare two numbers at a glance is what a
    small model gets wrong; the last borrow it reads off.)
    """
    lines, digits, borrow = _subtract_columns(_backwards(a), _backwards(b))
    if borrow:
        more, digits, borrow = _subtract_columns(_backwards(b), _backwards(a))
        lines = [*lines, "borrow left, so negative", *more]
    assert borrow == 0
    return [*lines, *_finish(digits)]


def _subtract_columns(x: str, y: str) -> tuple[list[str], str, int]:
    """Subtracts two numbers given backwards: the lines, the difference backwards, the borrow that is left."""
    lines, digits, borrow = [f"backwards {x} - {y}"], "", 0
    for k in range(max(len(x), len(y))):
        left, right = int(x[k : k + 1] or 0), int(y[k : k + 1] or 0)
        total = left - right - borrow
        lines.append(f"{left}-{right}-{borrow}={total}: {total % 10} borrow {int(total < 0)}")
        digits, borrow = digits + str(total % 10), int(total < 0)
    return lines, digits, borrow


def _multiplication(a: int, b: int) -> list[str]:
    """One partial product for each digit of the shorter number, the second one shifted, then their sum."""
    x, y = _backwards(a), _backwards(b)
    if len(y) > len(x):
        x, y = y, x
    assert len(y) <= 2, "the working is defined for a factor of at most two digits"
    lines, partials = [f"backwards {x} * {y}"], []
    for shift, factor in enumerate(y):
        more, digits = _times_digit(x, int(factor))
        partials.append("0" * shift + digits)
        lines += [f"{x} * {factor}", *more, f"digits {partials[-1]}"]
    if len(partials) == 1:
        return [*lines, f"forwards {partials[0][::-1]}"]
    more, digits = _add_columns(*partials)
    return [*lines, f"add {partials[0]} + {partials[1]}", *more, *_finish(digits)]


def _times_digit(x: str, factor: int) -> tuple[list[str], str]:
    lines, digits, carry = [], "", 0
    for digit in map(int, x):
        total = digit * factor + carry
        lines.append(f"{digit}*{factor}+{carry}={total}: {total % 10} carry {total // 10}")
        digits, carry = digits + str(total % 10), total // 10
    return lines, digits + (str(carry) if carry else "")


PHRASINGS = {
    "+": (
        "What is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a}+{b}=?", "What's {a} plus {b}?",
        "what is {a} plus {b}", "How much is {a} + {b}?", "Compute {a} + {b}.", "Calculate {a} + {b}",
        "Add {a} and {b}.", "add {b} to {a}", "What is the sum of {a} and {b}?", "Please add {a} and {b}.",
        "Can you tell me what {a} + {b} is?", "{a} plus {b}", "Work out {a} + {b}.", "what is {a}+{b}?",
        "I have {a} and get {b} more. How many do I have?", "What does {a} + {b} equal?",
    ),
    "-": (
        "What is {a} - {b}?", "{a} - {b}", "{a}-{b}", "{a} - {b} =", "{a}-{b}=?", "What's {a} minus {b}?",
        "what is {a} minus {b}", "How much is {a} - {b}?", "Compute {a} - {b}.", "Calculate {a} - {b}",
        "Subtract {b} from {a}.", "subtract {b} from {a}", "What is the difference of {a} and {b}?",
        "Take {b} away from {a}.", "Can you tell me what {a} - {b} is?", "{a} minus {b}", "Work out {a} - {b}.",
        "what is {a}-{b}?", "I have {a} and give away {b}. How many are left?", "What does {a} - {b} equal?",
    ),
    "*": (
        "What is {a} * {b}?", "{a} * {b}", "{a}*{b}", "{a} x {b}", "{a} * {b} =", "{a}*{b}=?", "What's {a} times {b}?",
        "what is {a} times {b}", "How much is {a} * {b}?", "How much is {a} x {b}?", "Compute {a} * {b}.",
        "Calculate {a} * {b}", "Multiply {a} by {b}.", "multiply {a} and {b}", "What is the product of {a} and {b}?",
        "Please multiply {a} by {b}.", "Can you tell me what {a} * {b} is?", "{a} times {b}", "Work out {a} * {b}.",
        "what is {a}*{b}?", "What is {a} x {b}?", "{a} boxes with {b} eggs each: how many eggs?",
        "What does {a} * {b} equal?",
    ),
}  # fmt: skip
HELD_OUT_PHRASING = {
    "+": "Could you work out {a} + {b} for me?",
    "-": "Could you work out {a} - {b} for me?",
    "*": "Could you work out {a} * {b} for me?",
}


def question(problem: Problem, rng: random.Random) -> str:
    """The problem in one of its phrasings (nobody gives away more than he has)."""
    while "give away" in (form := rng.choice(PHRASINGS[problem.op])) and problem.a < problem.b:
        pass
    return form.format(a=problem.a, b=problem.b)


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


def draw(rng: random.Random, op: str | None = None) -> Problem:
    """A problem: + and - of 1 to 5 digits each, lengths uniform; * of up to 3 by 2 digits, half of them 3
    by 2.
    """
    op = op or rng.choices(OPERATORS, (28, 28, 44))[0]
    if op == "*":
        longer, shorter = (3, 2) if rng.random() < 0.5 else (rng.randint(1, 3), rng.randint(1, 2))
        a, b = number(rng, longer), number(rng, shorter)
        return Problem(b, op, a) if rng.random() < 0.25 else Problem(a, op, b)
    a, b = number(rng, rng.randint(1, 5)), number(rng, rng.randint(1, 5))
    if op == "-":
        if rng.random() < 0.3:  # near each other: where the comparison takes more than the first digit
            b = abs(a + rng.choice((-1, 1)) * number(rng, rng.randint(1, len(str(a)))))
            b = min(b, 99_999)
        if a < b and rng.random() < 0.7:
            a, b = b, a
    return Problem(a, op, b)


def draw_split(rng: random.Random, *, held_out: bool, op: str | None = None) -> Problem:
    """A problem of the training split, or of the held-out one."""
    while (problem := draw(rng, op)).held_out != held_out:
        pass
    return problem
