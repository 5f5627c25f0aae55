"""Checks of single values, shared by the configurations of this folder.

Each function takes the field's name (for the message), the value as it came from a file, a command line or
Python, and returns it as the plain Python type that the field promises. Anything else is a ValueError of
the form "<field> is <value>: it must be <what is right>". JSON and Python make three mistakes easy, and all
are caught here: a bool passes for an int, NaN passes every `<`, and a float such as 8.0 passes for a count.

What it does not do: checks between fields; those are each configuration's own.
"""

import math
import numbers
from typing import Any, NoReturn


def refuse(field: str, value: object, right: str) -> NoReturn:
    """Raise the ValueError that names the field, what was given and what would be right."""
    raise ValueError(f"{field} is {shown(value)}: it must be {right}")


def shown(value: object) -> str:
    """A value as a message repeats it: a number of thousands of digits is cut."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_int(field: str, value: Any, *, low: int = 0, high: int | None = None) -> int:
    """An integer in [low, high]; numpy's integers become int, a bool is refused."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        refuse(field, value, f"an integer {bounds}")
    number = int(value)
    if number < low or (high is not None and number > high):
        refuse(field, value, f"an integer {bounds}")
    return number


def check_float(field: str, value: Any, *, low: float, high: float = math.inf, above: bool = False) -> float:
    """A finite number in [low, high], or in (low, high] where `above` is set; integers become float."""
    start = f"above {low:g}" if above else f"of at least {low:g}"
    right = f"a finite number {start}" + ("" if math.isinf(high) else f" and at most {high:g}")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        refuse(field, value, right)
    try:
        number = float(value)
    except OverflowError:
        refuse(field, value, right)
    # NaN is unequal to everything, so it falls through comparisons: it is asked for by name.
    if not math.isfinite(number) or number < low or number > high or (above and number == low):
        refuse(field, value, right)
    return number


def check_bool(field: str, value: Any) -> bool:
    """True or False; 0, 1 and strings are refused."""
    if not isinstance(value, bool):
        refuse(field, value, "true or false")
    return value


def check_text(field: str, value: Any) -> str:
    """A string that is not empty and that UTF-8 can hold (a lone surrogate can't be matched or encoded)."""
    if not isinstance(value, str) or not value:
        refuse(field, value, "a string that is not empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        refuse(field, value, "text that UTF-8 can hold (it has half of a surrogate pair)")
    return value


def check_ids(field: str, value: Any) -> tuple[int, ...]:
    """A list or tuple of token ids or layer numbers (integers of at least 0), as a tuple."""
    if not isinstance(value, list | tuple):
        refuse(field, value, "a list of integers")
    return tuple(check_int(f"{field}[{i}]", item) for i, item in enumerate(value))
