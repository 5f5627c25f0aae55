"""Calls beside another answer: JSON in their place, or free text in front of them."""

import json
import re
from typing import Any

import pytest
import torch
from test_constrain import CITY, CLOCK, WEATHER, grammars, ids, qwen, row, tool, wander

from pureqwen import Qwen, SamplingParams, parse_tool_calls
from pureqwen.chat import Content, Reply, ReplyOptions
from pureqwen.generate import GrammarError, Grammars, forms
from pureqwen.generate.proportion import MAX_BYTES

__all__ = ["grammars", "qwen"]  # fixtures

TOOLS = [WEATHER, CLOCK]
STYLES = pytest.mark.parametrize("style", ["hermes", "coder"])


def called(name: str, key: str, value: str, *, style: str) -> str:
    if style == "hermes":
        return f'<tool_call>\n{{"name": "{name}", "arguments": {{"{key}": "{value}"}}}}\n</tool_call>'
    body = f"<function={name}>\n<parameter={key}>\n{value}\n</parameter>\n</function>"
    return f"<tool_call>\n{body}\n</tool_call>"


def fits(qwen: Qwen, grammar: Any, text: str) -> bool:
    """Whether the model may write the whole text, and end there."""
    matcher, tokens = grammar.matcher(), ids(qwen, text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@STYLES
@pytest.mark.parametrize("seed", range(6))
def test_an_answer_is_calls_or_json_of_the_schema_and_nothing_else(qwen: Qwen, style: str, seed: int) -> None:
    first = "<tool_call>" if seed % 2 else "{"
    clock = tool("clock", zone={"enum": ["CET", "UTC"]})
    grammar = qwen.grammars.tools([clock], style=style, parallel=False, otherwise=CITY)
    one = wander(row(qwen, grammar), seed=seed, wish=ids(qwen, first))
    content, calls = parse_tool_calls(one.reply.text, style=style, tools=[clock])
    assert one.reply.finish_reason == "stop"
    if seed % 2:
        assert content is None and [call.arguments for call in calls] in (
            [{"zone": "CET"}],
            [{"zone": "UTC"}],
        )
    else:
        assert not calls and [*json.loads(content or "")] == [*CITY["properties"]]


@STYLES
def test_beside_json_the_calls_are_held_to_their_schemas_and_may_be_several(qwen: Qwen, style: str) -> None:
    right, wrong = (called("clock", "zone", zone, style=style) for zone in ("UTC", "Mars"))
    many, single = (
        qwen.grammars.tools(TOOLS, style=style, parallel=parallel, otherwise={"type": "object"})
        for parallel in (True, False)
    )
    assert fits(qwen, many, right) and fits(qwen, many, f"{right}\n{right}")
    assert fits(qwen, single, right) and not fits(qwen, single, f"{right}\n{right}")
    for text in (wrong, f"So: {right}", f'{{"a": 1}}{right}', f'{right}\n{{"a": 1}}', "[1]", "So."):
        assert not fits(qwen, many, text), text
    assert fits(qwen, many, '{"a": 1}')


@STYLES
def test_free_text_stays_possible_beside_a_strict_tool(qwen: Qwen, style: str) -> None:
    grammar = qwen.grammars.mixed(TOOLS, style=style, strict=["clock"])
    for text in ("", "Good day.\n\n- a <b> {c}", "3 < 4", "\n", "a <tool_ b"):
        assert fits(qwen, grammar, text), text


@STYLES
def test_a_call_of_a_strict_tool_fits_its_schema_and_others_are_free(qwen: Qwen, style: str) -> None:
    grammar = qwen.grammars.mixed(TOOLS, style=style, strict=["clock"])
    right, wrong = (called("clock", "zone", zone, style=style) for zone in ("UTC", "Mars"))
    loose = called("weather", "planet", "Mars", style=style)
    for text in (right, f"Well.\n{right}", f"{right}\n{right}", loose, f"{loose}\n{right}"):
        assert fits(qwen, grammar, text), text
    for text in (wrong, f"Well. {wrong}", f"{right} and", called("none", "a", "b", style=style)):
        assert not fits(qwen, grammar, text), text
    single = qwen.grammars.mixed(TOOLS, style=style, strict=["clock"], parallel=False)
    assert fits(qwen, single, right) and not fits(qwen, single, f"{right}\n{right}")


@STYLES
def test_a_tag_that_is_spelled_in_letters_opens_no_call_that_is_not_held(qwen: Qwen, style: str) -> None:
    """What reads an answer knows letters only: a tag in free text would be a call past the schema."""
    assert qwen.tokenizer is not None
    grammar = qwen.grammars.mixed(TOOLS, style=style, strict=["clock"])
    tags = ["<tool_call>"] if style == "hermes" else ["<tool_call>", "<function=clock>"]
    for tag in tags:
        matcher, tokens = grammar.matcher(), qwen.tokenizer.encode(f"a {tag}")
        assert matcher.try_consume_tokens(tokens) < len(tokens)


@STYLES
def test_where_the_tags_are_no_tokens_the_text_of_one_begins_a_call(qwen: Qwen, style: str) -> None:
    assert qwen.tokenizer is not None
    tags = {tag: json.dumps(tag) for tag in ("<tool_call>", "</tool_call>")}
    form = forms.mixed_form(TOOLS, style=style, strict=["clock"], parallel=True, tags=tags)
    grammar = qwen.grammars._grammar(form)
    right, wrong = (called("clock", "zone", zone, style=style) for zone in ("UTC", "Mars"))
    expected = {"a < b": True, right: True, f"a {right}\n{right}": True, f"a {wrong}": False}
    for text, whole in expected.items():
        matcher, tokens = grammar.matcher(), qwen.tokenizer.encode(text)
        took = matcher.try_consume_tokens(tokens) == len(tokens)
        assert (took and matcher.is_accepting()) == whole, text


@STYLES
def test_tools_that_are_not_strict_need_no_schema_that_a_grammar_can_be_made_of(
    grammars: Grammars, style: str
) -> None:
    odd = tool("odd", a={"type": "array", "uniqueItems": True})
    grammars.mixed([odd, CLOCK], style=style, strict=["clock"])
    with pytest.raises(GrammarError, match="uniqueItems"):
        grammars.mixed([odd, CLOCK], style=style, strict=["odd"])


def optional(name: str, *, strict: bool | None = None, **more: Any) -> dict[str, Any]:
    """A tool of one city that must be named, and of what else its schema says."""
    parameters = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    parameters = {
        **parameters,
        **more,
        "properties": {**parameters["properties"], **more.get("properties", {})},
    }
    function = {"name": name, "parameters": parameters}
    return {"type": "function", "function": function if strict is None else {**function, "strict": strict}}


# What schemas of real tools say, and no grammar can hold.
UNHELD: dict[str, Any] = {
    "unique": {"properties": {"a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}}},
    "not": {"properties": {"a": {"type": "integer", "not": {"const": 3}}}},
    "names": {"properties": {"a": {"type": "object", "propertyNames": {"pattern": "^a"}}}},
    "contains": {"properties": {"a": {"type": "array", "contains": {"const": 3}}}},
    "format": {"properties": {"a": {"type": "array", "items": {"type": "string", "format": "iri"}}}},
    "look-around": {
        "properties": {"a": {"type": "array", "items": {"type": "string", "pattern": "^(?!-)[a-z]+$"}}}
    },
    "back-reference": {
        "properties": {"a": {"type": "array", "items": {"type": "string", "pattern": "(a|b)\\1"}}}
    },
}


@STYLES
@pytest.mark.parametrize("name", UNHELD)
def test_a_forced_call_of_a_tool_that_is_not_strict_is_held_but_for_what_no_grammar_can_hold(
    qwen: Qwen, style: str, name: str
) -> None:
    """Schemas of real tools have uniqueItems and the like: a forced call of them was an error."""
    more = UNHELD[name]
    for strict in (None, True):
        with pytest.raises(GrammarError, match=r"Unimplemented|Unknown format|regex"):
            qwen.grammars.tools([optional("f", strict=strict, **more)], style=style)
    grammar = qwen.grammars.tools([CLOCK, optional("f", strict=False, **more)], style=style, names=["f"])
    right, wrong, other = (
        called(name, "city", city, style=style)
        for name, city in (("f", "Rome"), ("f", "Bonn"), ("g", "Rome"))
    )
    assert fits(qwen, grammar, right)
    for text in (wrong, other, called("clock", "zone", "UTC", style=style), "So.", ""):
        assert not fits(qwen, grammar, text), text


def test_a_strict_tool_beside_one_that_is_not_keeps_its_keywords(qwen: Qwen) -> None:
    more = UNHELD["unique"]
    with pytest.raises(GrammarError, match="uniqueItems"):
        qwen.grammars.tools([optional("f", strict=True, **more), optional("g", strict=False)], style="hermes")
    grammar = qwen.grammars.tools([CLOCK, optional("g", strict=False, **more)], style="hermes")
    assert not fits(qwen, grammar, called("clock", "zone", "Mars", style="hermes"))


WHOLE: dict[str, Any] = {
    "minProperties": {"minProperties": 2},
    "maxProperties": {"maxProperties": 1},
    "patternProperties": {"patternProperties": {"^c": {"enum": ["Rome"]}}},
    "propertyNames": {"propertyNames": {"maxLength": 3}},
    "dependentRequired": {"dependentRequired": {"city": ["zip"]}},
    "anyOf": {"anyOf": [{"required": ["zip"]}, {"required": ["street"]}]},
    "allOf": {"allOf": [{"properties": {"city": {"const": "Rome"}}}]},
    "oneOf": {"oneOf": [{"required": ["zip"]}]},
    "not": {"not": {"required": ["zip"]}},
    "if": {"if": {"required": ["zip"]}, "then": {"required": ["street"]}},
    "$ref": {"$ref": "#/$defs/place", "$defs": {"place": {"required": ["zip"]}}},
    "enum": {"enum": [{"city": "Rome"}]},
    "const": {"const": {"city": "Rome"}},
    "'zip' is none": {"required": ["city", "zip"]},
    "'no' is none": {"properties": {"no": False}, "required": ["city", "no"]},
}


@pytest.mark.parametrize("keyword", WHOLE)
def test_what_a_strict_tool_of_the_coder_asks_of_all_its_parameters_is_an_error_that_names_it(
    qwen: Qwen, keyword: str
) -> None:
    """It was ignored: the call did not fit the schema, and nobody was told."""
    tools = [CLOCK, optional("f", strict=True, **WHOLE[keyword])]
    for how in ({"make": qwen.grammars.tools}, {"make": qwen.grammars.mixed, "strict": ["f"]}):
        make: Any = how.pop("make")
        with pytest.raises(GrammarError, match=rf"parameters of the tool 'f'.*{re.escape(keyword)}"):
            make(tools, style="coder", **how)
    loose = qwen.grammars.tools([optional("f", strict=False, **WHOLE[keyword])], style="coder")
    free = qwen.grammars.mixed(tools, style="coder", strict=["clock"])
    for grammar in (loose, free):
        assert fits(qwen, grammar, called("f", "city", "Rome", style="coder"))


def test_a_strict_tool_of_the_coder_may_say_what_its_calls_hold_in_any_case(qwen: Qwen) -> None:
    more: dict[str, Any] = {
        **{
            "title": "F",
            "description": "f",
            "default": {},
            "$schema": "https://json-schema.org/draft-07/schema",
        },
        **{"additionalProperties": False, "unevaluatedProperties": False, "minLength": 3},
        "properties": {"no": False},
    }
    grammar = qwen.grammars.tools([optional("f", strict=True, **more)], style="coder")
    right, wrong = (called("f", key, "Rome", style="coder") for key in ("city", "no"))
    assert fits(qwen, grammar, right) and not fits(qwen, grammar, wrong)
    both = right.replace("</function>", "<parameter=no>\nx\n</parameter>\n</function>")
    assert not fits(qwen, grammar, both)


def test_a_value_that_looks_like_a_pattern_is_none() -> None:
    schema = {"const": {"pattern": "(?=a)"}, "items": [{"enum": [{"pattern": "(?=a)"}]}], "pattern": r"\(?=a"}
    assert forms.loosened(schema) == schema


@STYLES
@pytest.mark.parametrize("strict", [None, False])
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"properties": []}, "properties"),
        ({"properties": None}, "properties"),
        ({"properties": {"a": 5}}, "#/properties/a"),
        ({"properties": {"a": None}}, "#/properties/a"),
        ({"required": None}, "required"),
        ({"required": 5}, "required"),
        ({"required": "a"}, "required"),
        ({"required": [5]}, "required"),
        ({"required": [["a"]]}, "required"),
        ({"type": "array"}, "type 'array'"),
        ({"type": ["object", "null"]}, "type"),
        ({"type": None}, "type"),
        ({"type": {}}, "type"),
        ({"properties": {"a": {"type": "strnig"}}}, "strnig"),
        ({"properties": {"a": {"type": "array", "items": {"pattern": "("}}}}, "regex"),
        ({"properties": {"a": {"$ref": "http://evil.example/schema"}}}, "evil"),
    ],
    ids=str,
)
def test_parameters_that_are_no_schema_of_an_object_are_an_error_in_words(
    grammars: Grammars, style: str, strict: bool | None, parameters: Any, message: str
) -> None:
    """In the coder's way they were a TypeError, or a call of markup without arguments."""
    function: dict[str, Any] = {"name": "f", "parameters": parameters}
    function |= {} if strict is None else {"strict": strict}
    with pytest.raises(GrammarError, match=message):
        grammars.tools([CLOCK, {"type": "function", "function": function}], style=style)


@pytest.mark.parametrize(
    ("otherwise", "message"),
    [
        ({"type": "wat"}, "wat"),
        ({"pattern": "a{99999}"}, "repeats its parts"),
        ({"a": "x" * MAX_BYTES}, "bytes"),
        ([1], "a JSON object"),
    ],
)
def test_a_bad_schema_beside_calls_is_an_error_as_it_is_alone(
    grammars: Grammars, otherwise: Any, message: str
) -> None:
    with pytest.raises(GrammarError, match=message):
        grammars.tools(TOOLS, style="hermes", otherwise=otherwise)


@STYLES
def test_json_that_quotes_a_call_is_no_call(qwen: Qwen, style: str) -> None:
    """A text in a JSON answer, which may come from anybody, would run a tool."""
    assert qwen.tokenizer is not None
    text = json.dumps({"a": "<function=clock></function>", "b": "<tool_call>\n"})
    text += '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>' if style == "hermes" else ""
    for calls, count in (("alone", 0), ("anywhere", 1)):
        reply = Reply(qwen.tokenizer, options=ReplyOptions(style=style, calls=calls))  # type: ignore[arg-type]
        for id in qwen.tokenizer.encode(text):
            reply.push(id)
        reply.finish("stop")
        assert len(reply.tool_calls) == count
        assert count or reply.content == text


@pytest.mark.parametrize("kind", ["forced", "beside JSON", "strict"])
def test_a_call_that_is_cut_leaves_no_markup_in_the_content(qwen: Qwen, kind: str) -> None:
    text = called("clock", "zone", "UTC", style="hermes")
    how: dict[str, Any] = {"style": "hermes", "parallel": True}
    make = qwen.grammars.tools
    match kind:
        case "beside JSON":
            how["otherwise"] = CITY
        case "strict":
            make, how["strict"] = qwen.grammars.mixed, ["clock"]  # type: ignore[assignment]
    wish = ids(qwen, f"{text}\n{text}<|im_end|>")
    whole = len(ids(qwen, text))
    for room in range(1, len(wish) + 1):
        params = SamplingParams(temperature=0.0, max_tokens=room)
        one = qwen.intake.chat("hello", TOOLS, False, params, constraint=make(TOOLS, **how))
        events: list[Any] = []
        for token in wish[:room]:
            events += one.accept(torch.eye(1024)[token])
        assert one.reply.content is None, room
        assert not [event for event in events if isinstance(event, Content)]
        assert (one.reply.finish_reason == "length") == (room < len(wish))
        assert room < whole or one.reply.tool_calls
        assert room < len(wish) or len(one.reply.tool_calls) == 2
