"""The bytes of a request -> JSON values, and JSON values -> a checked request. Stricter than Python's json.

What RFC 8259 forbids or leaves open, and what would hurt later, is refused: NaN and infinities, numbers
beyond a float, keys given twice, half surrogate pairs, deep nesting, very many objects or keys.

A field whose value is null is not set; any other field that a request does not have is refused by name, or,
by a lenient server, left out with a warning.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pureqwen.serve.protocol.refusal import Refusal

MAX_DEPTH = 64
PLAIN = re.compile(r"[\w-]+")
MAX_KEYS = 4096  # of one object
MAX_OBJECTS = 65_536  # of one body

Request = TypeVar("Request", bound="Fields")
Item = TypeVar("Item")
# A list of plain values, of which the first wrong one is told: a million mistakes would take gigabytes.
Values = Annotated[list[Item], Field(fail_fast=True)]


def all_objects(value: Any) -> Any:
    """A list that holds something else than objects is one mistake as well."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                raise PydanticCustomError("no_object", f"Item {number} should be an object")
    return value


Objects = Annotated[list[Item], BeforeValidator(all_objects)]


def by_type(value: Any) -> str | None:
    """The name of the alternative that an object's `type` tells: "<text>", which is no key of an object.

    pydantic puts it into the location of an error, where `text` would be taken for the field of that name.
    """
    kind = dict(value).get("type") if isinstance(value, dict | BaseModel) else None
    return f"<{kind}>" if isinstance(kind, str) else None


BY_TYPE = Discriminator(by_type)


# pydantic's names of what is of another type, in JSON's words.
TYPES = {
    "string_type": "a string",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
}


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
            body.decode("utf-8"),
            object_pairs_hook=Counted().unique,
            parse_constant=_constant,
            parse_float=_finite,
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
            unknown = [place(value, one["loc"]) for one in details if one["type"] == "extra_forbidden"]
            if not unknown:
                raise wrong(value, details) from None
            if not lenient:  # a field that nobody knows explains more than what is missing beside it
                path = dotted(unknown[0])
                raise Refusal(
                    f"{path} is not supported here: leave it out", param=path, code="unsupported_field"
                ) from None
            ignored += map(dotted, unknown)
            value = without(value, unknown)


def nearness(value: Any, detail: Any) -> tuple[int, bool]:
    """Of the alternatives for a value, the one that came the furthest is meant; and where an object or a list
    has a mistake, not the text that it could have been.
    """
    where = place(value, detail["loc"])
    for step in where:
        value = value[step]
    text = detail["type"] in ("string_type", "literal_error")
    return len(where), not (text and isinstance(value, dict | list))


def wrong(value: Any, details: Sequence[Any]) -> Refusal:
    """What pydantic says of the field that is meant, with its path; all types that it may have."""
    detail = max(details, key=lambda one: nearness(value, one))
    where = place(value, detail["loc"])
    if detail["type"] == "missing":  # a null lies there perhaps
        where = (*place(value, detail["loc"][:-1]), detail["loc"][-1])
    path, said = dotted(where), detail["msg"]
    if detail["type"] in TYPES:
        beside = [one["type"] for one in details if place(value, one["loc"]) == where]
        said = f"Input should be {' or '.join(dict.fromkeys(TYPES[n] for n in beside if n in TYPES))}"
    elif detail["type"].startswith("union_tag"):
        said = said.replace("'<", "'").replace(">'", "'").replace("by_type()", "'type'")
    return Refusal(f"{path or 'the body'}: {said}", param=path or None)


def place(value: Any, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """pydantic's location of an error without the names of the alternatives that it tried."""
    found: list[int | str] = []
    for step in location:
        inside = isinstance(value, Mapping) and step in value
        if inside or (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            found.append(step)
            value = value[step]
    return tuple(found)


def dotted(where: tuple[int | str, ...]) -> str:
    """("messages", 0, "role") -> messages[0].role"""
    text = ""
    for step in where:
        name = (
            step if isinstance(step, int) or PLAIN.fullmatch(step) else json.dumps(step, ensure_ascii=False)
        )
        text += f"[{name}]" if isinstance(step, int) else f".{name}" if text else str(name)
    return text[:200]


def without(value: Any, places: Sequence[tuple[int | str, ...]]) -> Any:
    """A copy of `value` that lacks the fields that lie there."""
    below: dict[int | str, list[tuple[int | str, ...]]] = {}
    for step, *rest in places:
        below.setdefault(step, []).append(tuple(rest))
    if isinstance(value, list):
        return [without(item, below[at]) if at in below else item for at, item in enumerate(value)]
    return {
        key: without(item, below[key]) if key in below else item
        for key, item in value.items()
        if () not in below.get(key, ())
    }


def check_depth(value: Any) -> None:
    """Raises Refusal for lists and objects that are nested too deep for whoever walks over them later."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [item for item in level if isinstance(item, dict | list)]
        if not inner:
            return
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]
    raise Refusal(f"the body is nested deeper than {MAX_DEPTH}", code="invalid_json")


class Counted:
    """The objects of one body as they are read."""

    def __init__(self) -> None:
        self._count = 0

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object of these keys. Raises Refusal for a key given twice, and for too many."""
        self._count += 1
        if self._count > MAX_OBJECTS:
            raise Refusal(f"the body holds more than {MAX_OBJECTS} objects", code="invalid_json")
        return unique(pairs)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise Refusal(f"an object has more than {MAX_KEYS} keys", code="invalid_json")
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
