"""Bytes to checked requests: what RFC 8259 forbids, what nobody knows, and what costs too much."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pureqwen.serve.protocol.body import (
    MAX_DEPTH,
    MAX_KEYS,
    MAX_OBJECTS,
    Fields,
    dotted,
    parse,
    read,
    without,
)
from pureqwen.serve.protocol.chat import ChatRequest
from pureqwen.serve.protocol.completions import CompletionRequest
from pureqwen.serve.protocol.messages import MessagesRequest
from pureqwen.serve.protocol.refusal import Refusal


def refusal(body: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse(body)
    return caught.value


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"a"', "must be a JSON object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "beyond the range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": 1, "a": 2}', "there twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b'{"a": "\xff"}', "not UTF-8: invalid start byte at byte 7"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", f"deeper than {MAX_DEPTH}"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", f"deeper than {MAX_DEPTH}"),
        (json.dumps({str(n): 0 for n in range(MAX_KEYS + 1)}).encode(), "keys"),
        (b'{"a": [' + b"{}," * MAX_OBJECTS + b"{}]}", "objects"),
    ],
    ids=range(16),
)
def test_a_body_that_is_no_json_object_or_would_hurt_later_is_refused_in_words(body: bytes, why: str) -> None:
    assert why in refusal(body).message
    assert refusal(body).status == 400


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse(b'{"a": "\\ud83d\\ude00", "b": 1.5}') == {"a": "\U0001f600", "b": 1.5}


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_refusal(data: bytes) -> None:
    for body in (data, b'{"a": ' + data + b"}"):
        try:
            assert isinstance(parse(body), dict)
        except Refusal as error:
            assert error.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
KNOWN = st.sampled_from(["model", "messages", "prompt", "n", "stop", "tools", "logit_bias", "stream"])


@given(st.dictionaries(KNOWN | st.text(max_size=5), JSON), st.booleans(), st.booleans())
def test_any_object_is_a_request_or_a_refusal_that_names_a_field(
    value: dict[str, Any], chat: bool, lenient: bool
) -> None:
    try:
        read(ChatRequest if chat else CompletionRequest, value, lenient=lenient)
    except Refusal as error:
        assert error.param and error.status == 400


class Inner(Fields):
    number: int = 0


class Outer(Fields):
    name: str
    inner: list[Inner] | str | None = None


def wrong(value: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(Outer, value)
    return caught.value


def test_a_wrong_field_is_named_by_its_path_without_the_alternatives_that_were_tried() -> None:
    assert wrong({}).param == "name"
    assert wrong({"name": 3}).param == "name"
    assert wrong({"name": "a", "inner": [{"number": 1}, {"number": "1"}]}).param == "inner[1].number"
    assert wrong({"name": "a", "inner": [{"number": True}]}).param == "inner[0].number"


def test_an_unknown_field_is_named_before_anything_else_and_a_null_one_too() -> None:
    error = wrong({"inner": [{"nubmer": 1}]})
    assert (error.param, error.code) == ("inner[0].nubmer", "unsupported_field")
    assert "leave it out" in error.message


def test_null_is_not_set() -> None:
    assert read(Outer, {"name": "a", "inner": None, "other": None}) == (Outer(name="a"), [])


def test_a_body_that_is_no_object_where_one_is_wanted_is_told_without_a_field() -> None:
    with pytest.raises(Refusal) as caught:
        read(Outer, [])  # type: ignore[arg-type]
    assert caught.value.param is None and "the body" in caught.value.message


def test_a_lenient_server_leaves_unknown_fields_out_and_says_which() -> None:
    value = {"name": "a", "x": 1, "inner": [{"y": 1}, {"number": 2, "z": {"x": 3}}]}
    request, ignored = read(Outer, value, lenient=True)
    assert request == Outer(name="a", inner=[Inner(), Inner(number=2)])
    assert sorted(ignored) == ["inner[0].y", "inner[1].z", "x"]
    assert value["x"] == 1, "the body itself is left alone"


def test_lenient_is_not_lenient_about_wrong_values() -> None:
    with pytest.raises(Refusal, match="name"):
        read(Outer, {"name": 1, "x": 1}, lenient=True)


def test_twenty_thousand_unknown_fields_take_no_minutes() -> None:
    message = {"role": "user", "content": "a", "nickname": "b"}
    began = time.monotonic()
    _, ignored = read(ChatRequest, {"model": "m", "messages": [message] * 20_000}, lenient=True)
    assert len(ignored) == 20_000
    assert time.monotonic() - began < 10


def test_a_million_wrong_items_are_one_mistake_and_not_gigabytes() -> None:
    began = time.monotonic()
    with pytest.raises(Refusal, match="prompt"):
        read(CompletionRequest, {"model": "m", "prompt": [None] * 1_000_000})
    assert time.monotonic() - began < 2


def test_paths_are_written_as_in_javascript_and_are_no_longer_than_a_line() -> None:
    assert dotted(("messages", 0, "role")) == "messages[0].role"
    assert dotted(()) == ""
    assert dotted(("a", "", "b c")) == 'a.""."b c"'
    assert len(dotted(("a" * 1000,))) == 200


def test_a_field_that_is_gone_already_may_be_left_out_again() -> None:
    assert without({"a": {"b": 1}, "c": [1]}, [("a", "b"), ("a", "b"), ("d",)]) == {"a": {}, "c": [1]}


def in_block(**fields: Any) -> dict[str, Any]:
    turn = {"role": "assistant" if "thinking" in fields else "user", "content": [fields]}
    return {"model": "m", "max_tokens": 5, "messages": [turn]}


def in_chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        (
            MessagesRequest,
            in_block(type="text", text="hi", cache_control={"type": "ephemeral", "scope": "global"}),
            "messages[0].content[0].cache_control.scope",
        ),
        (MessagesRequest, in_block(type="text", text="hi", citations=[]), "messages[0].content[0].citations"),
        (
            MessagesRequest,
            in_block(type="thinking", thinking="hm", cache_control={"type": "ephemeral"}),
            "messages[0].content[0].cache_control",
        ),
        (
            ChatRequest,
            in_chat(response_format={"type": "json_schema", "json_schema": {"name": "a"}, "foo": 1}),
            "response_format.foo",
        ),
        (
            ChatRequest,
            in_chat(tool_choice={"type": "function", "function": {"name": "f"}, "name": "f"}),
            "tool_choice.name",
        ),
    ],
)
def test_an_unknown_field_of_an_object_with_a_type_is_named_and_nothing_else_is_left_out(
    kind: type[Fields], body: dict[str, Any], path: str
) -> None:
    """The type is also the name of a field beside it."""
    with pytest.raises(Refusal, match="is not supported here") as caught:
        read(kind, body)
    assert caught.value.param == path
    found, ignored = read(kind, body, lenient=True)
    assert ignored == [path]
    whole = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert "hi" in str(whole) or "hm" in str(whole)


def test_a_type_that_no_alternative_has_is_told_with_those_that_there_are() -> None:
    with pytest.raises(
        Refusal, match=r"Input tag 'xml' found using 'type' .* expected tags: 'text', 'json_o"
    ):
        read(ChatRequest, in_chat(response_format={"type": "xml"}))
    with pytest.raises(Refusal, match="using discriminator 'type'"):
        read(ChatRequest, in_chat(response_format={}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"messages": [{"role": "user", "content": []}]},
            r"messages\[0\]\.content: Value should have at least 1",
        ),
        (
            {"messages": [{"role": "user", "content": ["hi"]}]},
            r"messages\[0\]\.content: Item 0 should be an object",
        ),
        ({"tool_choice": {"type": "function"}}, r"tool_choice\.function: Field required"),
        ({"stop": 5}, "^stop: Input should be a string or an array$"),
        ({"temperature": "hot"}, "^temperature: Input should be a number$"),
    ],
)
def test_of_several_forms_the_one_that_was_meant_is_explained(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        read(ChatRequest, {**in_chat(), **fields})
