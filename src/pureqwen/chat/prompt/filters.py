"""The filters and tests of a chat template, each with its price.

`make_filters` and `make_tests` wrap Jinja's own functions: what a call may read or make is paid for first
(see budget.py), and what Jinja makes lazy (map, select, ...) becomes a list, since nested generators would be
paid for too late. Filters whose time nobody can tell from their arguments are not there: urlize, wordwrap,
pprint, striptags, xmlattr, filesizeformat, forceescape; nor is random. `tojson` is transformers': plain JSON,
not escaped for HTML.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import Environment, pass_environment
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.tests import TESTS
from markupsafe import Markup

from pureqwen.chat.prompt.budget import OVERHEAD, Budget, TemplateError
from pureqwen.chat.prompt.functions import ESCAPED, call_method, check_format, whole

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

# Bytes paid per byte of the arguments. Those that split into words or make keys to compare cost more.
DEEP = {
    **dict.fromkeys(("abs", "float", "int", "safe", "trim"), 1),
    **dict.fromkeys(("capitalize", "lower", "upper", "truncate", "max", "min", "string"), 4),
    **dict.fromkeys(("e", "escape"), ESCAPED),
    **dict.fromkeys(("dictsort", "groupby", "sort", "unique"), 16),
    **dict.fromkeys(("title", "urlencode", "wordcount"), 64),
}
# These look at the value from outside, and those go through its first level; items are priced one by one.
OUTER = ("attr", "count", "d", "default", "first", "last", "length")
FLAT = ("batch", "items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice")


def make_filters(budget: Budget, add: Callable[[Any, Any], Any]) -> dict[str, Callable[..., Any]]:
    """The filters of one rendering. `add` is the sandbox's own addition, for sum."""

    def priced(name: str, cost: Callable[[Budget, Args, Kwargs], int]) -> Callable[..., Any]:
        return _priced(budget, FILTERS[name], cost)

    filters = {name: priced(name, _deep(factor)) for name, factor in DEEP.items()}
    filters |= {name: priced(name, _outer) for name in OUTER}
    filters |= {name: priced(name, _flat) for name in FLAT}
    filters |= {"center": priced("center", _center), "indent": priced("indent", _indent)}
    filters |= {"join": priced("join", _join), "round": priced("round", _round)}
    filters["format"] = _make_format(budget)
    filters["replace"] = _make_replace(budget)
    filters["sum"] = _make_sum(add)
    filters["tojson"] = _make_tojson(budget)
    return filters


def make_tests(budget: Budget) -> dict[str, Callable[..., Any]]:
    """The tests (`is ...`) of one rendering; comparing lists is paid for."""
    return {name: _priced(budget, test, _containers) for name, test in TESTS.items()}


def _priced(budget: Budget, function: Any, cost: Callable[[Budget, Args, Kwargs], int]) -> Callable[..., Any]:
    # Jinja hands its context or environment to a function with this mark, before the template's own arguments
    passed = 0 if getattr(function, "jinja_pass_arg", None) is None else 1

    def call(*args: Any, **kwargs: Any) -> Any:
        budget.spend(OVERHEAD + cost(budget, args[passed:], kwargs))
        result = function(*args, **kwargs)
        if isinstance(result, Iterator):
            result = list(result)
        if isinstance(result, (list, tuple, dict)):
            budget.made(result)
        return result

    call.__dict__.update(
        getattr(function, "__dict__", {})
    )  # Jinja's marks; the rest of `wraps` is slow and unread
    return call


def _argument(args: Args, kwargs: Kwargs, place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _deep(factor: int) -> Callable[[Budget, Args, Kwargs], int]:
    def cost(budget: Budget, args: Args, kwargs: Kwargs) -> int:
        return factor * sum(map(budget.weigh, (*args, *kwargs.values())))

    return cost


def _outer(budget: Budget, args: Args, kwargs: Kwargs) -> int:
    return OVERHEAD


def _flat(budget: Budget, args: Args, kwargs: Kwargs) -> int:
    value = args[0] if args else ()
    count = len(value) if isinstance(value, (str, list, tuple, dict, range)) else 1
    groups = max((arg for arg in (*args[1:], *kwargs.values()) if isinstance(arg, int)), default=0)
    return (OVERHEAD + 8) * (count + groups)  # batch and slice: as many groups, or items filled in


def _containers(budget: Budget, args: Args, kwargs: Kwargs) -> int:
    return sum(budget.weigh(arg) for arg in (*args, *kwargs.values()) if isinstance(arg, (list, tuple, dict)))


def _center(budget: Budget, args: Args, kwargs: Kwargs) -> int:
    return budget.text(args[0]) + 4 * whole(_argument(args, kwargs, 1, "width", 80), "a width")


def _indent(budget: Budget, args: Args, kwargs: Kwargs) -> int:
    width = _argument(args, kwargs, 1, "width", 4)
    unit = budget.weigh(width) if isinstance(width, str) else whole(width, "a width")
    lines = len(args[0].splitlines()) + 1 if isinstance(args[0], str) else 1
    return budget.text(args[0]) + lines * (OVERHEAD + unit)


def _join(budget: Budget, args: Args, kwargs: Kwargs) -> int:
    value, glue = args[0], _argument(args, kwargs, 1, "d", "")
    if isinstance(value, range):
        return len(value) * (OVERHEAD + budget.text(glue))
    if not isinstance(value, (str, list, tuple, dict)):
        return OVERHEAD
    factor = ESCAPED if any(isinstance(item, Markup) for item in (glue, *value)) else 1
    return factor * (sum(map(budget.text, value)) + len(value) * budget.text(glue))


def _round(budget: Budget, args: Args, kwargs: Kwargs) -> int:
    if not -300 <= whole(_argument(args, kwargs, 1, "precision", 0), "a precision") <= 300:
        raise TemplateError("round in a chat template takes a precision of at most 300 digits")
    return OVERHEAD


def _make_format(budget: Budget) -> Callable[..., str]:
    def format(value: object, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise TemplateError("format in a chat template takes arguments by place or by name, not both")
        pattern = str(value) if isinstance(value, (str, int, float)) else ""
        check_format(budget, pattern, kwargs or args, percent=True)
        return pattern % (kwargs or args)

    return format


def _make_replace(budget: Budget) -> Callable[..., Any]:
    def replace(value: Any, old: Any, new: Any, count: int | None = None) -> Any:
        for argument in (value, old, new):
            budget.spend(budget.text(argument))
        text = value if isinstance(value, str) else str(value)
        numbers = () if count is None else (count,)
        return call_method(budget, text, "replace", (str(old), str(new), *numbers), {})

    return replace


def _make_sum(add: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    @pass_environment
    def sum(environment: Environment, value: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
        pick = make_attrgetter(environment, attribute) if attribute is not None else None
        for item in value:
            start = add(start, item if pick is None else pick(item))
        return start

    return sum


def _make_tojson(budget: Budget) -> Callable[..., str]:
    def tojson(
        value: object,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        weight, height = budget.weigh(value), budget.height(value)
        line = budget.weigh(separators) if separators else OVERHEAD
        if indent is not None:
            line += (height + 1) * (
                budget.weigh(indent) if isinstance(indent, str) else whole(indent, "indent")
            )
        budget.spend(6 * weight + (weight // OVERHEAD) * line)
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    return tojson
