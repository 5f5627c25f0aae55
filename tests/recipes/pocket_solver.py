"""Answers the pocket's questions from their text alone, with Python's own arithmetic, dates and strings.

It shares no code with recipes/pocket, so that an answer that is wrong there can't be right here too.
"""

import calendar
import re
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

PLACES = "boxes|bags|baskets|shelves|drawers|rows|packs|jars"
SHARED = "shares|divides|shared|equally|the same number|friends share|splits|for each|hands out"
TAKEN = "gives away|loses|sold|uses|takes|to a friend|break|sells|removes|spends|drops"
MORE = "more|finds|adds|besides|on the table|in one hand|in the evening|is given|on the next"
DAYS, MONTHS = list(calendar.day_name), list(calendar.month_name)[1:]
DAY, MONTH = "|".join(DAYS), "|".join(MONTHS)
SIGNS = {
    "+": r"\d ?\+ ?\d| plus |[Aa]dd |sum of",
    "-": r"\d ?- ?\d| minus |ubtract |[Tt]ake .*away|difference of|take away",
    "*": r"\d ?\* ?\d| times | x |ultiply |product of",
    "/": r"\d ?/ ?\d| divided by |[Dd]ivide |go into",
}
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
WORD = r'(?:the word )?"?([a-z]+)"?'
COUNTING = (  # the letter, then the word
    rf"ow many ([a-z])(?:'?s)? are in {WORD}",
    rf"the letter ([a-z]) (?:is )?in {WORD}",
    rf"The letter ([a-z]) in {WORD}:",
    rf"times does (?:the letter )?([a-z]) (?:appear|occur) in {WORD}",
    rf"Count the ([a-z])'s in {WORD}",
    rf"Number of ([a-z]) in {WORD}",
    rf"How many letters ([a-z]) does {WORD} have",
    rf"Count ([a-z]) in {WORD},",
    rf"how often ([a-z]) stands in {WORD}",
)
LENGTH = (
    rf"ow many letters (?:does|are in) {WORD}(?: have)?",
    rf"ow long is {WORD}",
    rf"Count the letters of {WORD}",
    rf"length of {WORD}",
    rf"[Nn]umber of letters in {WORD}",
    rf"the letters in {WORD}\.",
    rf"how many letters is {WORD} made",
)
TURNED = (
    rf"[Rr]everse {WORD}",
    rf"(?:[Ww]rite|is|Spell|Say) {WORD} (?:backwards|in reverse)",
    rf"[Tt]urn {WORD} around",
    rf"^{WORD} backwards",
    rf"Read {WORD} from right",
)
SPELLED = (
    rf"[Ss]pell(?: out)? {WORD}",
    rf"letters of {WORD}",
    rf"is {WORD} spelled",
    rf"Write {WORD} letter",
    rf"^{WORD}, letter",
)


def solve(text: str) -> str:
    """The bare result of a question that can be computed."""
    if unit := _unit(text):
        return unit
    if re.search(f"{DAY}|{MONTH}", text):
        return _day(text)
    if re.search(r"\d+\.\d+", text):
        return _decimals(text)
    if re.search(r"\d", text) and re.search(r"[Ss]ort|[Oo]rder|Arrange", text):
        down = re.search(r"descending|largest to smallest|large to small|largest first", text)
        return ", ".join(map(str, sorted(map(int, re.findall(r"\d+", text)), reverse=bool(down))))
    if re.search(r"\d", text):
        told = re.search(r"[Hh]ow many|does each|does .* keep", text)
        return str(_story(text)) if told else _plain(text)
    return _word(text)


def arithmetic(text: str) -> tuple[int, str, int]:
    """(a, operator, b) of a plain problem, however it is said."""
    a, b = (int(number) for number in re.findall(r"\d+", text))
    (op,) = (op for op, pattern in SIGNS.items() if re.search(pattern, text))
    if re.search(r"ubtract \d+ from|[Tt]ake \d+ away from|does \d+ go into|[Aa]dd \d+ to \d", text):
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
    many, taken, more = (bool(re.search(words, text)) for words in (PLACES, TAKEN, MORE))
    if len(numbers) == 3:
        a, b, c = numbers
        assert not many or taken != more, text
        return (a * b if many else a + b) + (-c if taken or not many else c)
    if re.search(SHARED, text):
        few, all_of_them = sorted(numbers)
        assert all_of_them % few == 0, text
        return all_of_them // few
    assert many + taken + more == 1, text
    return numbers[0] * numbers[1] if many else max(numbers) - min(numbers) if taken else sum(numbers)


def _word(text: str) -> str:
    """Spelling, turning around, counting letters."""
    if found := re.search(r"In ([a-z]+), how many ([a-z]) are there", text):
        return str(found[1].count(found[2]))
    for pattern in COUNTING:
        if found := re.search(pattern, text):
            return str(found[2].count(found[1]))
    for pattern in TURNED:
        if found := re.search(pattern, text):
            return found[1][::-1]
    for pattern in LENGTH:
        if found := re.search(pattern, text):
            return str(len(found[1]))
    return "-".join(next(found[1] for pattern in SPELLED if (found := re.search(pattern, text))))


def _decimals(text: str) -> str:
    numbers = re.findall(r"\d+\.\d+", text)
    larger = bool(re.search(r"larger|bigger|greater|more", text))
    assert larger != bool(re.search(r"smaller|less", text)), text
    return max(numbers, key=Decimal) if larger else min(numbers, key=Decimal)


def _day(text: str) -> str:
    """Weekdays, months and dates, by the calendar of a year without February 29."""
    days = int(found[1]) if (found := re.search(r"(\d+) days(?! long)", text)) else None
    if days is not None and (found := re.search(rf"({MONTH}) (\d+)", text)):
        then = date(2023, MONTHS.index(found[1]) + 1, int(found[2])) + timedelta(days)
        return f"{MONTHS[then.month - 1]} {then.day}"
    back = -1 if re.search(r"[Bb]efore|ago|back|minus|precedes", text) else 1
    if days is not None and (found := re.search(DAY, text)):
        return DAYS[(date(2024, 1, 1) + timedelta(DAYS.index(found[0]) + back * days)).weekday()]
    if found := re.search(DAY, text):
        return DAYS[(DAYS.index(found[0]) + back) % 7]
    found = re.search(MONTH, text)
    assert found is not None, text
    at = MONTHS.index(found[0])
    if re.search(r"days|How long", text, re.IGNORECASE):
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
