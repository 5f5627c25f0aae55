"""The roofline in text: two straight lines on logarithmic axes, and a letter for each thing measured.

    1 T + operations/s
        |                 __------------
        |           __--''         C
  100 G +     __--''
        |  -''      B
        |     A
   10 G +-----+-----------+-----------+-
              1           10         100     operations per byte

Plain ASCII, which every terminal and every file shows alike: `_`, `-` and `'` stand for the lower, the middle
and the upper third of a line of text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from pureqwen.evaluate.roofline import Roof

THIRDS = "_-'"
LABEL = 6  # columns for the numbers at the left
UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))


@dataclass(frozen=True, kw_only=True)
class Point:
    """Something measured: operations per byte, and operations/s."""

    name: str
    intensity: float
    rate: float


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A logarithmic axis from one power of ten to another, on so many cells."""

    low: int
    high: int
    cells: int

    @classmethod
    def around(cls, values: Sequence[float], cells: int) -> "Axis":
        """The powers of ten around the values."""
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return cls(low=low, high=max(high, low + 1), cells=cells)

    def place(self, value: float) -> float:
        """In cells from the low end."""
        return (math.log10(value) - self.low) / (self.high - self.low) * self.cells

    def cell(self, value: float) -> int:
        return min(max(int(self.place(value)), 0), self.cells - 1)

    def value(self, place: float) -> float:
        return float(10 ** (self.low + place / self.cells * (self.high - self.low)))

    def ticks(self) -> list[tuple[int, float]]:
        """Cell and value of each power of ten but the highest, which lies behind the last cell."""
        return [(self.cell(10.0**power), 10.0**power) for power in range(self.low, self.high)]


def draw(roof: Roof, points: Sequence[Point], *, width: int = 72, height: int = 15) -> list[str]:
    """The lines of the picture, then what the letters are."""
    inner = max(width - LABEL - 2, 10)
    x = Axis.around([roof.ridge / 2, roof.ridge * 4, *(point.intensity for point in points)], inner)
    y = Axis.around([roof.peak, roof.reach(10.0**x.low), *(point.rate for point in points)], height)
    grid = [[" "] * inner for _ in range(height)]  # from the bottom up
    for column in range(inner):
        draw_roof(grid, column, y.place(roof.reach(x.value(column + 0.5))))
    for letter, point in zip(ascii_uppercase, points, strict=False):
        put(grid[y.cell(point.rate)], x.cell(point.intensity), letter)
    return [*framed(grid, x, y), *legend(points, width)]


def draw_roof(grid: list[list[str]], column: int, place: float) -> None:
    """The roof in one column, as the third of a cell that it goes through."""
    row = min(int(place), len(grid) - 1)
    grid[row][column] = THIRDS[min(int((place - row) * 3), 2)]


def put(row: list[str], column: int, letter: str) -> None:
    """A letter in its cell; beside it where another letter has that."""
    while row[column].isalpha() and column + 1 < len(row):
        column += 1
    row[column] = letter


def framed(grid: Sequence[Sequence[str]], x: Axis, y: Axis) -> list[str]:
    """With axes: a number at each power of ten."""
    rows = {row: value for row, value in y.ticks() if row > 0}
    lines = [f"{short(10.0**y.high):>{LABEL}} + operations/s"]
    for row in reversed(range(len(grid))):
        label = f"{short(rows[row]):>{LABEL}} +" if row in rows else f"{'':{LABEL}} |"
        lines.append(f"{label}{''.join(grid[row])}".rstrip())
    ticks = dict(x.ticks())
    lines.append(
        f"{short(10.0**y.low):>{LABEL}} +" + "".join("+" if n in ticks and n else "-" for n in range(x.cells))
    )
    numbers = [" "] * (x.cells + 1)
    for column, value in ticks.items():
        text = short(value)
        numbers[column : column + len(text)] = text
    lines.append((f"{'':{LABEL}}  " + "".join(numbers)).rstrip())
    return [*lines, f"{'operations per byte':>{LABEL + 2 + x.cells}}"]


def legend(points: Sequence[Point], width: int) -> list[str]:
    """What each letter is; a line is broken between two of them only."""
    lines = [""]
    for letter, point in zip(ascii_uppercase, points, strict=False):
        name = f"{letter} {point.name}"
        longer = f"{lines[-1]}   {name}" if lines[-1] else name
        lines = [*lines[:-1], longer] if not lines[-1] or len(longer) <= width else [*lines, name]
    return lines


def short(value: float) -> str:
    """A power of ten: 100 G, 0.1."""
    for factor, unit in UNITS:
        if value >= factor:
            return f"{value / factor:g} {unit}".rstrip()
    return f"{value:g}"
