"""The functions and methods that a chat template may call, each with its price.

Jinja's sandbox forbids what leaks or changes the program's objects, but not what is merely large, such as
`'a'.center(10**9)`. Here a method is either priced (the size of its result is known from its arguments before
it runs) or refused. Of Jinja's globals only a limited range and namespace are there; transformers adds
raise_exception and strftime_now, and so do we.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from jinja2.utils import Namespace
from markupsafe import Markup

from pureqwen.chat.prompt.budget import OVERHEAD, Budget, TemplateError

MAX_RANGE = 100_000
MAX_BITS = 4096  # of an integer
MAX_WIDTH = 1000  # in a format, where it may have 3 digits
ESCAPED = 6  # one character as "&#39;"

SAME_SIZE = frozenset(
    (
        *("capitalize", "casefold", "lower", "swapcase", "title", "upper"),
        *("count", "endswith", "find", "index", "rfind", "rindex", "startswith"),
        *("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric"),
        *("isspace", "istitle", "isupper"),
        *("lstrip", "removeprefix", "removesuffix", "rstrip", "strip"),
    )
)
FLAT_METHODS = ("get", "items", "keys", "values", "copy")


class Granted:
    """A function of ours that a template may call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


class TemplateNamespace(Namespace):
    """Jinja's namespace, which holds no private name, and whose text holds not its contents."""

    def __repr__(self) -> str:
        return "<namespace>"


def make_namespace(*args: Any, **kwargs: Any) -> TemplateNamespace:
    attributes = dict(*args, **kwargs)
    for name in attributes:
        if not isinstance(name, str) or name.startswith("_"):
            raise TemplateError(f"a chat template's namespace can't hold the name {name!r}")
    return TemplateNamespace(attributes)


def raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def limited_range(*args: int) -> range:
    numbers = range(*args)
    if numbers and (abs(numbers[-1]) > 1 << 62 or len(numbers) > MAX_RANGE):
        raise TemplateError(f"range() in a chat template makes at most {MAX_RANGE} numbers")
    return numbers


def strftime_now(format: str) -> str:
    if len(format) > 200:
        raise TemplateError("strftime_now() takes a format of at most 200 characters")
    return datetime.now().strftime(format)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "namespace": make_namespace,
    "raise_exception": raise_exception,
    "range": limited_range,
    "strftime_now": strftime_now,
}


def whole(value: object, what: str) -> int:
    """`value` as the number that a size is."""
    if not isinstance(value, int):
        raise TemplateError(f"{what} in a chat template must be a whole number, not {type(value).__name__}")
    return value


# ---- methods -------------------------------------------------------------------------------------------


def call_method(budget: Budget, owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`owner.name(*args, **kwargs)`, paid for first; TemplateError when templates may not call it."""
    cost = method_cost(budget, owner, name, args, kwargs)
    if cost is None:
        raise TemplateError(f"a chat template may not call {type(owner).__name__}.{name}")
    if isinstance(owner, Markup):  # joins, replaces, ... after escaping
        cost *= ESCAPED
    budget.spend(cost)
    result = getattr(owner, name)(*args, **kwargs)
    if isinstance(owner, dict) and name in ("items", "keys", "values"):
        result = list(result)
    if isinstance(result, (list, tuple)):
        budget.made(result)
    return result


def method_cost(
    budget: Budget, owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> int | None:
    if isinstance(owner, dict):
        return OVERHEAD * (1 + len(owner)) if name in FLAT_METHODS else None
    if isinstance(owner, (list, tuple)):
        return budget.weigh(owner) if name in ("index", "count", "copy") else None
    if not isinstance(owner, str):
        return None
    size = budget.weigh(owner)
    if name in SAME_SIZE:
        return size
    if name in ("split", "rsplit", "partition", "rpartition", "splitlines"):
        sep = kwargs.get("sep", args[0] if args else None)
        pieces = owner.count(sep) + 1 if isinstance(sep, str) and sep else len(owner) // 2 + 1
        return size + (OVERHEAD + 8) * pieces
    if name == "replace" and len(args) >= 2 and isinstance(args[0], str):
        return size + owner.count(args[0]) * budget.weigh(args[1])
    if name == "join" and len(args) == 1 and isinstance(args[0], (list, tuple, str)):
        return budget.weigh(args[0]) + size * len(args[0])
    if name in ("center", "ljust", "rjust", "zfill") and args:
        return size + 4 * max(0, whole(args[0], "a width"))
    return None


# ---- formats -------------------------------------------------------------------------------------------

PERCENT_FIELD = re.compile(r"%[^a-zA-Z%]*?(\*|\d{4})")
BRACE_FIELD = re.compile(r"\d{4}|:[^{}]*\{")


def check_format(budget: Budget, pattern: str, args: object, *, percent: bool) -> None:
    """Pay for `pattern % args` or `pattern.format(args)`; widths must be written in it and be small."""
    if (PERCENT_FIELD if percent else BRACE_FIELD).search(pattern):
        raise TemplateError(
            f"a format in a chat template may not have a width of {MAX_WIDTH} or more, nor a computed one: "
            f"{pattern[:80]!r}"
        )
    fields = pattern.count("%" if percent else "{")
    budget.spend(budget.weigh(pattern) + fields * (4 * budget.weigh(args) + MAX_WIDTH))
