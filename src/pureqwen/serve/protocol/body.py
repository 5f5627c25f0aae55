"""The bytes of a request -> JSON values, and JSON values -> a checked request. Stricter than Python's json.

What RFC 8259 forbids or leaves open, and what would hurt later, is refused: NaN and infinities, numbers
beyond a float, keys given twice, half surrogate pairs, deep nesting.

A field whose value is null is not set; any other field that a request does not have is refused by name, or,
by a lenient server, left out with a warning.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pureqwen.serve.protocol.refusal import Refusal

MAX_DEPTH = 64

Request = TypeVar("Request", bound="Fields")


class Fields(BaseModel):
    """An object of a request: types are taken as they are, unknown fields are errors, null is not set."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None}


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds. Raises Refusal."""
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite
        )
        check_depth(value)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise Refusal(
            f"the body is not UTF-8: {error.reason} at byte {error.start}", code="invalid_json"
        ) from None
    except UnicodeEncodeError:
        raise Refusal("the body holds half of a surrogate pair: no text", code="invalid_json") from None
    except RecursionError:
        raise Refusal(f"the body is nested deeper than {MAX_DEPTH}", code="invalid_json") from None
    except Refusal:
        raise
    except ValueError as error:
        raise Refusal(f"the body is not JSON: {str(error)[:200]}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Refusal("the body must be a JSON object", code="invalid_json")
    return value


def read(model: type[Request], value: dict[str, Any], *, lenient: bool = False) -> tuple[Request, list[str]]:
    """A request, and the fields that were left out of it. Raises Refusal naming the first wrong field."""
    ignored: list[str] = []
    while True:
        try:
            return model.model_validate(value), ignored
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False)
            # A field that nobody knows explains more than what is missing beside it.
            first = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
            where = place(value, first["loc"], missing=first["type"] == "missing")
            path = dotted(where)
            if first["type"] != "extra_forbidden":
                raise Refusal(f"{path or 'the body'}: {first['msg']}", param=path or None) from None
            if not lenient:
                raise Refusal(
                    f"{path} is not supported here: leave it out", param=path, code="unsupported_field"
                ) from None
            ignored.append(path)
            value = without(value, where)


def place(value: Any, location: tuple[int | str, ...], *, missing: bool) -> tuple[int | str, ...]:
    """pydantic's location of an error without the names of the alternatives that it tried."""
    found: list[int | str] = []
    for step in location:
        inside = isinstance(value, Mapping) and step in value
        if inside or (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            found.append(step)
            value = value[step]
    return (*found, location[-1]) if missing else tuple(found)


def dotted(where: tuple[int | str, ...]) -> str:
    """("messages", 0, "role") -> messages[0].role"""
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text[:200]


def without(value: Any, where: tuple[int | str, ...]) -> Any:
    """A copy of `value` that lacks what lies there."""
    step, *rest = where
    if isinstance(value, Mapping):
        if not rest:
            return {key: item for key, item in value.items() if key != step}
        return {key: without(item, tuple(rest)) if key == step else item for key, item in value.items()}
    assert rest, "only fields of objects are left out"
    return [without(item, tuple(rest)) if number == step else item for number, item in enumerate(value)]


def check_depth(value: Any) -> None:
    """Raises Refusal for lists and objects that are nested too deep for whoever walks over them later."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [item for item in level if isinstance(item, dict | list)]
        if not inner:
            return
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]
    raise Refusal(f"the body is nested deeper than {MAX_DEPTH}", code="invalid_json")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refusal(f"the key {name[:80]!r} is there twice in one object", code="invalid_json")
        found[name] = value
    return found


def _constant(name: str) -> float:
    raise Refusal(f"{name} is not JSON", code="invalid_json")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise Refusal(f"{text[:40]} is beyond the range of a float", code="invalid_json")
    return number
