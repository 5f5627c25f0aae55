# ruff: noqa: E501  (tables)
"""Weekdays and dates: so many days after or before one, and what follows what.

Weekdays repeat every seven days, so only what is left of whole weeks is counted; dates are counted over the end of a month, February having 28
days (no year is named). Small sums are written in one line:

    10 days after Monday:  10 = 7 + 3 / Tuesday, Wednesday, Thursday
    5 days after March 28: 28 + 5 = 33 / March has 31 / 33 - 31 = 2 / April 2
"""

import random

from recipes.pocket.problem import Problem, Task

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = {
    "January": 31, "February": 28, "March": 31, "April": 30, "May": 31, "June": 30, "July": 31, "August": 31, "September": 30,
    "October": 31, "November": 30, "December": 31,
}  # fmt: skip
_NAMES = tuple(MONTHS)

_AFTER = (
    "What day is {n} days after {day}?", "Which day is {n} days after {day}?", "Today is {day}. What day is it in {n} days?", "{n} days after {day}?",
    "If today is {day}, which weekday is it in {n} days?", "Which weekday is it {n} days after {day}?", "what day is {n} days after {day}",
    "It is {day}. Which day is it in {n} days?", "Count {n} days from {day}.", "Starting on {day}, what day is it {n} days later?", "What weekday comes {n} days after {day}?",
    "Tell me the weekday {n} days after {day}.", "{day} plus {n} days is which day?",
    "Today is {day}, and I wait {n} days. What day is it then?",
)  # fmt: skip
_BEFORE = (
    "What day is {n} days before {day}?", "Which day is {n} days before {day}?", "Today is {day}. What day was it {n} days ago?", "{n} days before {day}?",
    "If today is {day}, which weekday was it {n} days ago?", "Which weekday is it {n} days before {day}?", "what day is {n} days before {day}",
    "It is {day}. Which day was it {n} days ago?", "Count {n} days back from {day}.", "Tell me the weekday {n} days before {day}.", "{day} minus {n} days is which day?",
    "Today is {day}. Go back {n} days: what day was it?",
)  # fmt: skip
_NEXT = (
    "Which {kind} comes after {name}?", "What {kind} comes after {name}?", "Which {kind} follows {name}?", "what comes after {name}", "What comes after {name}?",
    "The {kind} after {name}?", "What is the next {kind} after {name}?", "Name the {kind} after {name}.", "Tell me the {kind} that follows {name}.",
    "After {name}, which {kind} is next?",
)  # fmt: skip
_PREVIOUS = (
    "Which {kind} comes before {name}?", "What {kind} comes before {name}?", "what comes before {name}", "What comes before {name}?", "The {kind} before {name}?",
    "What is the {kind} before {name}?", "Name the {kind} before {name}.", "Tell me the {kind} that stands before {name}.", "Which {kind} precedes {name}?",
    "Before {name}, which {kind} was it?",
)  # fmt: skip
_LENGTH = (
    "How many days does {name} have?", "How many days are in {name}?", "how many days has {name}", "How long is {name}?", "Number of days in {name}?", "Days in {name}?",
    "Tell me how many days {name} has.", "How many days are there in {name}?", "Is {name} 30 or 31 days long?",
    "What is the number of days of {name}?",
)  # fmt: skip
_DATE = (
    "Which date is {n} days after {month} {day}?", "What is the date {n} days after {month} {day}?", "{n} days after {month} {day}?", "what date is {n} days after {month} {day}",
    "Today is {month} {day}. What is the date in {n} days?", "If today is {month} {day}, which date is it in {n} days?", "It is {month} {day}. What date is it {n} days later?",
    "Add {n} days to {month} {day}.", "{month} {day} plus {n} days?", "Count {n} days from {month} {day}.", "Tell me the date {n} days after {month} {day}.",
    "Today is {month} {day}, and I wait {n} days. What is the date then?",
)  # fmt: skip


def _weekday(rng: random.Random) -> Problem:
    start, n = rng.randrange(7), rng.randint(2, 9) if rng.random() < 0.4 else rng.randint(2, 60)
    sign = 1 if rng.random() < 0.65 else -1
    weeks, left = divmod(n, 7)
    counted = [DAYS[(start + sign * k) % 7] for k in range(left + 1)]
    answer = DAYS[(start + sign * n) % 7]
    assert counted[-1] == answer
    steps = f"{n} = {7 * weeks} + {left}\n{', '.join(counted)}"
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
    if day + n - MONTHS[month] > MONTHS[_NAMES[(at + 1) % 12]]:
        return _date(rng)
    lines, total = [f"{day} + {n} = {day + n}", f"{month} has {MONTHS[month]}"], day + n
    if total > MONTHS[month]:
        lines.append(f"{total} - {MONTHS[month]} = {total - MONTHS[month]}")
        total, month = total - MONTHS[month], _NAMES[(at + 1) % 12]
    answer = f"{month} {total}"
    fields, key = {"n": n, "month": _NAMES[at], "day": day}, f"date {at} {day} {n}"
    return Problem(_DATE, "\n".join([*lines, answer]), f"It is {answer}.", fields, answer, answer, key)


def _calendar(rng: random.Random) -> Problem:
    kind = rng.random()
    return _weekday(rng) if kind < 0.6 else _neighbour(rng) if kind < 0.85 else _length(rng)


TASKS = (Task("weekdays and months", 4.5, _calendar, direct=0.25), Task("dates", 4.5, _date, direct=0.12))
