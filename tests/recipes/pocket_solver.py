"""Answers the pocket's questions from their text alone, with Python's own arithmetic, dates and strings.

It shares no code with recipes/pocket, so that an answer that is wrong there can't be right here too.
"""

import calendar
import re
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

PLACES = "boxes|bags|baskets|shelves|drawers|rows|packs|jars"
SHARED = "share|divide|split|equal|each get|for each|each part"
TAKEN = (
    "away|loses|lost|sold|sells|uses|takes|to a friend|a friend gets|break|removes|spends|drops"
    "|fall out|threw"
)
MORE = "more|finds|adds|besides|on the table|in the evening|is given|the next day|and then|at school"
DAYS, MONTHS = list(calendar.day_name), list(calendar.month_name)[1:]
DAY, MONTH = "|".join(DAYS), "|".join(MONTHS)
SIGNS = {
    "+": r"\d ?\+ ?\d|plus|add|sum of",
    "-": r"\d ?- ?\d|minus|subtract|take|difference of",
    "*": r"\d ?[*x] ?\d|times|multiply|product of",
    "/": r"\d ?/ ?\d|divide|quotient of",
}
SECOND_FIRST = r"(?:subtract|take) \d+ (?:away )?from|add \d+ to \d"  # the second number is the left operand
SORT, DOWN = r"\b(?:sort|order|arrange|list)\b", r"descending|decreasing|(?:largest|high) to|largest first"
# What one of each is, in the smallest unit of its kind.
UNITS = {
    "kilometers km": ("length", 1_000_000), "meters m": ("length", 1000), "centimeters cm": ("length", 10),
    "millimeters mm": ("length", 1), "kilograms kg": ("mass", 1_000_000), "grams g": ("mass", 1000),
    "milligrams mg": ("mass", 1), "liters l": ("volume", 1000), "milliliters ml": ("volume", 1),
    "euros": ("money", 100), "dollars": ("money", 100), "cents": ("money", 1), "weeks": ("time", 604_800),
    "days": ("time", 86_400), "hours h": ("time", 3600), "minutes min": ("time", 60),
    "seconds s": ("time", 1), "years": ("months", 12), "months": ("months", 1), "yards": ("feet", 36),
    "feet ft": ("feet", 12), "inches in": ("feet", 1), "dozens": ("pieces", 12), "pieces": ("pieces", 1),
}  # fmt: skip
SIZES = {name: size for names, size in UNITS.items() for name in names.split()}
WORD = r'(?:the word )?"?(?!the )([a-z]+)"?'
# A letter on its own, and the word that it is counted in.
COUNTED = (
    r"""(?<![\w'])"?([a-z])"?(?:'s)? """
    rf"(?:(?:is|are|are there|appears?|occurs?) )?(?:in|does) {WORD}"
)
# What stands in front of any other word, and what says that it is to be measured or turned around.
ASKED = "(?:spell|write|read|say|turn|flip|reverse|give me|letters|length|is)(?: (?:out|of|is|are|in|does))*"
LENGTH, TURNED = "how many|how long|length|count", "reverse|backwards|turn.*around|flip|right to left"
SPELLED = "spell|letter|written"


def said(pattern: str, text: str) -> re.Match[str] | None:
    """Finds a pattern, whether its words begin a sentence or not."""
    return re.search(pattern, text, re.IGNORECASE)


def solve(text: str) -> str:
    """The bare result of a question that can be computed."""
    if re.search(f"{DAY}|{MONTH}", text):
        return _day(text)
    if unit := _unit(text):
        return unit
    if re.search(r"\d+\.\d+", text):
        return _decimals(text)
    if not re.search(r"\d", text):
        return _word(text)
    if said(SORT, text):
        numbers = map(int, re.findall(r"\d+", text))
        return ", ".join(map(str, sorted(numbers, reverse=bool(said(DOWN, text)))))
    return str(_story(text)) if said("how many", text) else _plain(text)


def arithmetic(text: str) -> tuple[int, str, int]:
    """(a, operator, b) of a plain problem, however it is said."""
    a, b = (int(number) for number in re.findall(r"\d+", text))
    (op,) = (op for op, pattern in SIGNS.items() if said(pattern, text))
    if said(SECOND_FIRST, text):
        a, b = b, a
    return a, op, b


def computed(a: int, op: str, b: int) -> int:
    """The result; of a division the whole part."""
    return a // b if op == "/" else {"+": a + b, "-": a - b, "*": a * b}[op]


def _plain(text: str) -> str:
    a, op, b = arithmetic(text)
    return f"{computed(a, op, b)}{f' remainder {a % b}' if op == '/' and a % b else ''}"


def _story(text: str) -> int:
    """One step or two: what the words say decides the operations."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    many, taken, more = (bool(said(words, text)) for words in (PLACES, TAKEN, MORE))
    if len(numbers) == 3:
        a, b, c = numbers
        assert not many or taken != more, text
        return (a * b if many else a + b) + (-c if taken or not many else c)
    if said(SHARED, text):
        few, all_of_them = sorted(numbers)
        assert all_of_them % few == 0, text
        return all_of_them // few
    assert many + taken + more == 1, text
    return numbers[0] * numbers[1] if many else max(numbers) - min(numbers) if taken else sum(numbers)


def _word(text: str) -> str:
    """Spelling, turning around, counting letters."""
    if counted := re.search(COUNTED, text):
        return str(counted[2].count(counted[1]))
    found = said(rf"\b{ASKED} {WORD}", text)
    assert found is not None, text
    word, around = found[1], text[: found.start(1)] + text[found.end(1) :]
    long, turned = said(LENGTH, around), said(TURNED, around)
    assert (long or turned or said(SPELLED, around)) and not (long and turned), text
    return str(len(word)) if long else word[::-1] if turned else "-".join(word)


def _decimals(text: str) -> str:
    numbers: list[str] = re.findall(r"\d+\.\d+", text)
    larger = bool(said("larger|bigger|greater", text))
    assert larger != bool(said("smaller|lower", text)), text
    return max(numbers, key=Decimal) if larger else min(numbers, key=Decimal)


def _day(text: str) -> str:
    """Weekdays, months and dates, by the calendar of a year without February 29."""
    days = int(found[1]) if (found := re.search(r"(\d+) days", text)) else None
    if days is not None and (found := re.search(rf"({MONTH}) (\d+)", text)):
        then = date(2023, MONTHS.index(found[1]) + 1, int(found[2])) + timedelta(days)
        return f"{MONTHS[then.month - 1]} {then.day}"
    back = -1 if said(r"before|\bago\b|\bback\b|precedes", text) else 1
    if days is not None and (found := re.search(DAY, text)):
        return DAYS[(date(2024, 1, 1) + timedelta(DAYS.index(found[0]) + back * days)).weekday()]
    if found := re.search(DAY, text):
        return DAYS[(DAYS.index(found[0]) + back) % 7]
    found = re.search(MONTH, text)
    assert found is not None, text
    at = MONTHS.index(found[0])
    if said("days|how long", text):
        return str(calendar.monthrange(2023, at + 1)[1])
    return MONTHS[(at + back) % 12]


def _unit(text: str) -> str | None:
    """A conversion; None for any other question."""
    if not (found := re.search(r"(\d+) ([a-z]+)", text)) or found[2] not in SIZES:
        return None
    kind, size = SIZES[found[2]]
    words = [w for w in re.findall(r"[a-z]+", text) if SIZES.get(w, ("",))[0] == kind and w != found[2]]
    if not words:
        return None
    wanted = next((w for w in words if w != "in"), "in")  # "in" is inches only where no other unit is named
    return f"{Fraction(int(found[1]) * size, SIZES[wanted][1])} {wanted}"
