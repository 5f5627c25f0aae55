# ruff: noqa: E501  (tables)
"""Weekdays and dates: so many days after or before one, and what follows what.

Weekdays repeat every seven days, so only what is left of whole weeks is counted; dates are counted over the end of a month, February having 28
days (no year is named). Sums are worked out as everywhere:

    10 days after Monday:  10 / 7 by long division, rest 3 / Monday, Tuesday, Wednesday, Thursday
    5 days after March 28: 28 + 5 in columns, 33 / March has 31 / 31 - 33 in columns, negative, 2 / April 2
    5 days after March 20: 20 + 5 in columns, 25 / March has 31 / 31 - 25 in columns, 6 / March 25

The month's length comes first in the difference, so that its last day is no exception: 31 - 31 is not negative.
"""

import random

from recipes.pocket.problem import Problem, Task
from recipes.pocket.tasks.arithmetic import steps as working
from recipes.pocket.wording import phrased

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = {
    "January": 31, "February": 28, "March": 31, "April": 30, "May": 31, "June": 30, "July": 31, "August": 31, "September": 30,
    "October": 31, "November": 30, "December": 31,
}  # fmt: skip
_NAMES = tuple(MONTHS)

_AFTER = phrased(
    ("tell me the day {n} days after {day}", "count {n} days from {day}", "find the weekday {n} days after {day}", "add {n} days to {day}", "tell me which day is {n} days after {day}"),
    ("what day is {n} days after {day}", "which day is {n} days after {day}", "which weekday is it {n} days after {day}", "what day comes {n} days after {day}", "what day of the week is {n} days after {day}",
     "if today is {day}, what day is it in {n} days", "if it is {day} today, which day is it {n} days later", "today is {day}, what day is it in {n} days", "it is {day}, which day is it in {n} days", "{n} days after {day}"),
)  # fmt: skip
_BEFORE = phrased(
    ("tell me the day {n} days before {day}", "count {n} days back from {day}", "find the weekday {n} days before {day}", "go back {n} days from {day}", "tell me which day is {n} days before {day}"),
    ("what day is {n} days before {day}", "which day is {n} days before {day}", "which weekday is it {n} days before {day}", "what day comes {n} days before {day}", "what day of the week is {n} days before {day}",
     "if today is {day}, what day was it {n} days ago", "if it is {day} today, which day was it {n} days ago", "today is {day}, what day was it {n} days ago", "it is {day}, which day was it {n} days ago", "{n} days before {day}"),
)  # fmt: skip
_NEXT = phrased(
    ("name the {kind} after {name}", "tell me the {kind} after {name}", "say which {kind} follows {name}"),
    ("which {kind} comes after {name}", "what {kind} comes after {name}", "what comes after {name}", "which {kind} follows {name}", "what is the {kind} after {name}", "what is the next {kind} after {name}"),
)  # fmt: skip
_PREVIOUS = phrased(
    ("name the {kind} before {name}", "tell me the {kind} before {name}", "say which {kind} stands before {name}"),
    ("which {kind} comes before {name}", "what {kind} comes before {name}", "what comes before {name}", "which {kind} precedes {name}", "what is the {kind} before {name}", "what was the {kind} before {name}"),
)  # fmt: skip
_LENGTH = phrased(
    ("tell me how many days {name} has", "give me the number of days in {name}", "say how long {name} is"),
    ("how many days does {name} have", "how many days are in {name}", "how long is {name}", "how many days has {name}", "how many days are there in {name}"),
)  # fmt: skip
_DATE = phrased(
    ("tell me the date {n} days after {month} {day}", "add {n} days to {month} {day}", "count {n} days from {month} {day}", "find the date {n} days after {month} {day}"),
    ("what date is {n} days after {month} {day}", "which date is {n} days after {month} {day}", "what is the date {n} days after {month} {day}", "if today is {month} {day}, what is the date in {n} days",
     "today is {month} {day}, which date is it in {n} days", "it is {month} {day}, what date is it {n} days later", "{n} days after {month} {day}", "what is {month} {day} plus {n} days"),
)  # fmt: skip


def _weekday(rng: random.Random) -> Problem:
    start, n = rng.randrange(7), rng.randint(2, 9) if rng.random() < 0.4 else rng.randint(2, 60)
    sign = 1 if rng.random() < 0.65 else -1
    left = n % 7
    counted = [DAYS[(start + sign * k) % 7] for k in range(left + 1)]
    answer = DAYS[(start + sign * n) % 7]
    assert counted[-1] == answer
    steps = f"{working(n, '/', 7)}\n{', '.join(counted)}"
    fields, key = {"n": n, "day": DAYS[start]}, f"weekday {n} {sign} {start}"
    said = f"It is {answer}." if sign > 0 else f"It was {answer}."
    return Problem(_AFTER if sign > 0 else _BEFORE, steps, said, fields, answer, answer, key, 20)


def _neighbour(rng: random.Random) -> Problem:
    """The day or month after or before one: too few to hold any out."""
    kind, names = rng.choice((("day", DAYS), ("month", _NAMES)))
    at, sign = rng.randrange(len(names)), rng.choice((1, -1))
    answer = names[(at + sign) % len(names)]
    word = "after" if sign > 0 else "before"
    fields = {"kind": kind, "name": names[at]}
    return Problem(
        _NEXT if sign > 0 else _PREVIOUS,
        f"{word} {names[at]}: {answer}",
        f"{answer}.",
        fields,
        answer,
        answer,
    )


def _length(rng: random.Random) -> Problem:
    name, days = rng.choice(list(MONTHS.items()))
    said = f"{name} has {days} days."
    return Problem(_LENGTH, f"{name}: {days}", said, {"name": name}, str(days), days)


def _date(rng: random.Random) -> Problem:
    """Up to 30 days on, so that at most one end of a month is crossed (two after January's last days)."""
    at = rng.randrange(12)
    month = _NAMES[at]
    day, n = rng.randint(1, MONTHS[month]), rng.randint(2, 30)
    if rng.random() < 0.15 and MONTHS[month] - day > 2:  # about the month's last day
        n = MONTHS[month] - day + rng.randint(-1, 1)
    if day + n - MONTHS[month] > MONTHS[_NAMES[(at + 1) % 12]]:
        return _date(rng)
    total = day + n
    length = MONTHS[month]
    lines = [working(day, "+", n), f"{month} has {length}", working(length, "-", total)]
    if total > length:
        total, month = total - length, _NAMES[(at + 1) % 12]
    answer = f"{month} {total}"
    fields, key = {"n": n, "month": _NAMES[at], "day": day}, f"date {at} {day} {n}"
    return Problem(_DATE, "\n".join([*lines, answer]), f"It is {answer}.", fields, answer, answer, key)


def _calendar(rng: random.Random) -> Problem:
    kind = rng.random()
    return _weekday(rng) if kind < 0.6 else _neighbour(rng) if kind < 0.85 else _length(rng)


TASKS = (Task("weekdays and months", 4.5, _calendar, direct=0.25), Task("dates", 4.5, _date, direct=0.12))
