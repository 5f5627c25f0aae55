"""The roofline in text, on fixed numbers."""

import pytest

from pureqwen.cli.roofline import Axis, Point, draw, short
from pureqwen.evaluate.roofline import Roof

ROOF = Roof(bandwidth=33e9, peak=850e9)
POINTS = [
    Point(name="prompt", intensity=300, rate=400e9),
    Point(name="answer", intensity=2, rate=50e9),
    Point(name="the same", intensity=2, rate=50e9),
]
PICTURE = """
   1 T + operations/s
       |                 ---------------------
       |               -'
       |            _-'                A
       |          _-
       |        _-
 100 G +      _-
       |    _'
       |  _BC
       |-'
       |
       |
       |
  10 G +------------+------------+------------
        1           10           100
                           operations per byte
A prompt   B answer   C the same
"""


def test_the_roofline_is_two_lines_and_a_letter_for_each_point() -> None:
    assert "\n".join(draw(ROOF, POINTS, width=46, height=12)) == PICTURE.strip("\n")


@pytest.mark.parametrize("width", [30, 80, 120])
def test_no_line_is_wider_than_what_there_is(width: int) -> None:
    assert max(map(len, draw(ROOF, POINTS, width=width))) <= width


def test_a_point_below_everything_else_has_its_decade() -> None:
    lines = draw(ROOF, [Point(name="slow", intensity=0.02, rate=3e6)])
    assert any("A" in line for line in lines[:-1])
    assert any(line.startswith("   1 M +") for line in lines)
    assert lines[-3].split()[0] == "0.01"


def test_a_point_on_the_edge_of_the_axes_is_inside() -> None:
    axis = Axis.around([1.0, 100.0], 40)
    assert (axis.low, axis.high) == (0, 2)
    assert [axis.cell(value) for value in (1.0, 10.0, 100.0, 1e9, 1e-9)] == [0, 20, 39, 39, 0]
    assert Axis.around([1.0], 40).high == 1


def test_powers_of_ten_have_short_names() -> None:
    assert [short(10.0**n) for n in (-1, 0, 2, 3, 10, 14)] == ["0.1", "1", "100", "1 k", "10 G", "100 T"]
