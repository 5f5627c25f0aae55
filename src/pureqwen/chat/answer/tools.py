"""What a tool call is: a name and arguments, strict JSON, and types from the tools' JSON schemas.

The coder models write every argument as bare text, and only the schema says whether 12345 is a number or a
postal code: `typed` reads a text as the first type that fits and leaves it a text otherwise. Arguments are
not validated against the schema, and names not against the list of tools: whoever executes a call must do
both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Tools = Sequence[Mapping[str, Any]]

# Deeper values break the recursion of whoever walks over them later (templates, json, copy).
MAX_DEPTH = 64

# Read in any case: the templates render past arguments as Python does, True and None.
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_CLASSES: dict[str, type | tuple[type, ...]] = {
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


@dataclass(frozen=True)
class ToolCall:
    """The model's wish to call a tool. `id` names the call within its reply and is no part of equality."""

    name: str
    arguments: dict[str, Any]
    id: str = field(default="", compare=False)

    @property
    def arguments_json(self) -> str:
        """The arguments as JSON: exactly what the deltas of a stream join to."""
        return json.dumps(self.arguments, ensure_ascii=False)


def json_value(text: str) -> Any:
    """The value of a JSON text; of equal keys the last one counts.

    ValueError for what RFC 8259 does not allow and for what would hurt later: NaN and infinities, numbers too
    large for Python, nesting beyond MAX_DEPTH, lone surrogates.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        _check_depth(value)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("this JSON is nested too deeply") from None
    return value


def typed(text: str, types: Sequence[str]) -> Any:
    """The text as a value of the first JSON schema type that it fits; the text itself when none does."""
    word = text.strip()
    try:
        value = _WORDS[word.lower()] if word.lower() in _WORDS else json_value(word)
    except ValueError:
        return text
    if value is None:
        return None if types and ("string" not in types or "null" in types) else text
    for kind in types:
        if kind == "string":
            return text
        fits = isinstance(value, _CLASSES.get(kind, ()))
        if fits and (kind == "boolean" or not isinstance(value, bool)):
            return value
    return text


def parameter_types(tools: Tools | None, name: str) -> dict[str, list[str]]:
    """Parameter -> its JSON schema types in order, for the tool of that name; empty where no schema tells.

    A tool is {"type": "function", "function": {...}} or the inner mapping alone; what is malformed is passed
    over.
    """
    for tool in tools or ():
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if isinstance(function, Mapping) and function.get("name") == name:
            schema = function.get("parameters")
            properties = schema.get("properties") if isinstance(schema, Mapping) else None
            if isinstance(properties, Mapping):
                return {key: _types(value) for key, value in properties.items()}
    return {}


def _types(schema: object) -> list[str]:
    choices = [schema]
    if isinstance(schema, Mapping):
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                choices += schema[key]
    found: list[str] = []
    for choice in choices:
        kind = choice.get("type") if isinstance(choice, Mapping) else None
        kinds = kind if isinstance(kind, list) else [kind]
        found += [kind for kind in kinds if isinstance(kind, str)]
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is beyond the range of a float")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [item for item in level if isinstance(item, dict | list)]
        if not inner:
            return
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]
    raise ValueError(f"this JSON is nested deeper than {MAX_DEPTH}")
