"""What is out of proportion in a schema or a pattern, refused before any compiler sees it.

How large, how deep, how many properties, how often a pattern repeats its parts, how many patterns one text
has to match at once: each of them makes compilers slow, or fills the memory. Nothing is compiled here; which
keywords and patterns there are is the compiler's to judge.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

MAX_BYTES = 256 * 1024  # of a schema, or of all the tools of a request
MAX_DEPTH = 64  # of a schema's own brackets
MAX_PROPERTIES = 4000
MAX_JOINED = 12  # patterns that one text has to match, all of them: the cost of a join grows as 2**n
MAX_PATTERN = 16 * 1024  # characters of a regular expression
MAX_REPEATS = 20_000  # copies of its parts that the counts {n,m} of a regular expression ask for

_BRACES = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


class GrammarError(ValueError):
    """A schema, a pattern or a tool that no grammar can be made of, or a grammar that failed in its use."""


def check_schema(schema: Any, place: str) -> None:
    """Refuse what is no JSON, or too large; the grammar's compiler judges the rest."""
    if not isinstance(schema, Mapping):
        raise GrammarError(f"{place} is a JSON object, not {type(schema).__name__}")
    count = 0
    for path, value in walk(schema):
        if len(path) > MAX_DEPTH:
            raise GrammarError(f"{place} is nested deeper than {MAX_DEPTH}")
        if not isinstance(value, Mapping):
            continue
        properties = value.get("properties")
        patterned = value.get("patternProperties")
        count += sum(len(names) for names in (properties, patterned) if isinstance(names, Mapping))
        if count > MAX_PROPERTIES:
            raise GrammarError(f"{place} has more than {MAX_PROPERTIES} properties")
        where = f"{place}, {pointer(path)}"
        if isinstance(pattern := value.get("pattern"), str):
            check_pattern(pattern, f"{where}/pattern")
        if isinstance(patterned, Mapping):
            for pattern in patterned:
                check_pattern(str(pattern), f"{where}/patternProperties")
    try:
        size = len(json.dumps(schema, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError) as error:
        raise GrammarError(f"{place} is not JSON: {error}") from error
    if size > MAX_BYTES:
        raise GrammarError(f"{place} has {size} bytes: at most {MAX_BYTES} are taken")
    if patterns(schema) > MAX_JOINED and Joins(schema).most(schema) > MAX_JOINED:
        raise GrammarError(f"{place} asks a text to match more than {MAX_JOINED} patterns at once")


def patterns(schema: Any) -> int:
    """How many patterns and formats a schema itself has, or all that is in it."""
    return sum(own(value) for _, value in walk(schema))


def own(schema: Any) -> int:
    return isinstance(schema, Mapping) and sum(isinstance(schema.get(k), str) for k in ("pattern", "format"))


class Joins:
    """How many patterns a schema asks of one text at most: those that "allOf" and "$ref" put together.

    An upper bound: the branches of an "allOf" count as if they spoke of the same property.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.known: dict[int, float] = {}  # of a schema by its identity; 0 while it is being found out

    def most(self, schema: Any, depth: int = 0) -> float:
        """The bound for a schema and all that is below it; infinite where that can't be told."""
        if not isinstance(schema, Mapping):
            return 0
        if depth > 4 * MAX_DEPTH:
            return float("inf")
        if id(schema) not in self.known:
            self.known[id(schema)] = 0
            self.known[id(schema)] = self._joined(schema, depth + 1)
        return self.known[id(schema)]

    def _joined(self, schema: Mapping[str, Any], depth: int) -> float:
        apart = [schema.get(key) for key in ("items", "additionalProperties", "not")]
        for key in ("properties", "patternProperties", "$defs", "definitions"):
            apart += list(value.values()) if isinstance(value := schema.get(key), Mapping) else []
        either = [*_listed(schema, "prefixItems"), *_listed(schema, "items"), *apart]
        below = max((self.most(one, depth) for one in either), default=0)
        joined = sum(self.most(one, depth) for one in _listed(schema, "allOf"))
        for key in ("anyOf", "oneOf"):
            joined += max((self.most(one, depth) for one in _listed(schema, key)), default=0)
        if "$ref" in schema:
            joined += self._referred(schema["$ref"], depth)
        return max(own(schema), below) + joined

    def _referred(self, reference: Any, depth: int) -> float:
        value: Any = self.root
        for part in str(reference).removeprefix("#").split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            value = value.get(key) if isinstance(value, Mapping) else None
        told = isinstance(value, Mapping) and str(reference).startswith("#")
        return self.most(value, depth) if told else float("inf")


def _listed(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def walk(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in a JSON value with its path, itself first, one level deeper than is allowed at most."""
    stack: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while stack:
        path, value = stack.pop()
        yield path, value
        if len(path) > MAX_DEPTH:
            continue
        if isinstance(value, Mapping):
            stack += [((*path, str(key)), child) for key, child in value.items()]
        elif isinstance(value, list | tuple):
            stack += [((*path, str(n)), child) for n, child in enumerate(value)]


def pointer(path: Sequence[str]) -> str:
    """A path as a JSON pointer, as "$ref" writes it."""
    return "#" + "".join(f"/{part}" for part in path)


def check_pattern(pattern: str, place: str) -> None:
    """Refuse a regular expression that is too long, or that counts too far."""
    if len(pattern) > MAX_PATTERN:
        raise GrammarError(f"{place} has {len(pattern)} characters: at most {MAX_PATTERN} are taken")
    repeats = expansion(pattern)
    if repeats > MAX_REPEATS:
        raise GrammarError(f"{place} repeats its parts {repeats} times in all: at most {MAX_REPEATS}")


def expansion(pattern: str) -> int:
    """How many parts a regular expression has once its counts {n,m} are written out: a{3}(bc){2} has 7."""
    groups, last, at = [0], 0, 0
    while at < len(pattern):
        end = at + 1
        if pattern[at] == "(":
            groups.append(0)
            last = 0
        elif pattern[at] == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif found := _BRACES.match(pattern, at):
            end = found.end()
            times = max(int(found.group(1)), int(found.group(3) or 1))
            groups[-1] += last * (times - 1)
            last *= max(times, 1)
        elif pattern[at] not in "|*+?":
            found = _CLASS.match(pattern, at)
            end = found.end() if found else at + 2 if pattern[at] == "\\" else end
            groups[-1] += 1
            last = 1
        at = end
    return sum(groups)
