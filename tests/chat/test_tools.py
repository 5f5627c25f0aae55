"""Tool calls are found as the golden cases say, and hostile text is only text."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pureqwen.chat.answer.parser import Parser, ReplyOptions
from pureqwen.chat.answer.reply import parse_tool_calls, split_reasoning
from pureqwen.chat.answer.search import Search
from pureqwen.chat.answer.tools import MAX_DEPTH, ToolCall, json_value, parameter_types, typed

GOLDEN = Path(__file__).parents[1] / "golden" / "tool_parsing.jsonl"
CASES = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]


def coder(*parameters: str, name: str = "f") -> str:
    return f"<tool_call>\n<function={name}>\n" + "".join(parameters) + "</function>\n</tool_call>"


def streamed(text: str, style: str, tools: Any = None, *, size: int = 1) -> tuple[str | None, list[ToolCall]]:
    parser = Parser(ReplyOptions(style=style, tools=tools))
    for at in range(0, len(text), size):
        parser.feed(text[at : at + size])
    parser.close()
    return parser.content, parser.tool_calls


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_tool_calls_are_parsed_as_the_golden_cases_say(case: dict[str, Any]) -> None:
    """All of them, those marked as a matter of choice included, at once and in pieces."""
    style = "coder" if case["style"] == "qwen3_coder" else "hermes"
    calls = [ToolCall(call["name"], call["arguments"]) for call in case["expected"]["tool_calls"]]
    expected = case["expected"]["content"], calls
    text = case["model_output"]
    assert parse_tool_calls(text, style, case["tools"]) == expected
    assert parse_tool_calls(split_reasoning(text)[1] or "", style, case["tools"]) == expected
    for size in (1, 2, 3, 7):
        assert streamed(text, style, case["tools"], size=size) == expected


def test_arguments_keep_the_order_of_their_keys_and_their_types() -> None:
    _, [call] = parse_tool_calls('<tool_call>{"name": "f", "arguments": {"b": 1.50, "a": true}}</tool_call>')
    assert call.arguments_json == '{"b": 1.5, "a": true}'
    assert isinstance(call.arguments["a"], bool)


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ValueError, match="'hermes' or 'coder', not 'xml'"):
        parse_tool_calls("", "xml")
    with pytest.raises(ValueError, match="'hermes', 'coder' or None, not 'xml'"):
        ReplyOptions(style="xml")


# --- hermes


def test_two_objects_in_one_tag_are_two_calls() -> None:
    content, calls = parse_tool_calls(
        '<tool_call>{"name": "a"}\n{"name": "b", "arguments": null}</tool_call>'
    )
    assert (content, calls) == (None, [ToolCall("a", {}), ToolCall("b", {})])


def test_a_call_is_told_at_its_last_brace() -> None:
    parser = Parser(ReplyOptions(style="hermes"))
    parser.feed('<tool_call>{"name": "a"}')
    assert parser.tool_calls == [ToolCall("a", {})]


def test_text_that_only_mentions_a_tag_is_not_held_back() -> None:
    parser = Parser(ReplyOptions(style="hermes"))
    parser.feed("Use <tool_call> tags")
    assert parser.content == "Use <tool_call> tags"


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": -Infinity}}',
        '{"name": "f", "arguments": {"x": 1e999}}',
        '{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}",
        '{"name": "f", "arguments": {"x": "\\ud800"}}',
        '{"name": "f", "arguments": {"x": ' + "[" * 100_000 + "]" * 100_000 + "}}",
        '{"name": "f", "arguments": ' + '{"x": ' * 100_000,
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "not JSON"}',
        '{"name": "f", "arguments": "' + "[" * 1000 + '"}',
        '{"name": 7, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"arguments": {}}',
        '{"name": "f", "arguments": {"x": "a\nb"}}',
        '{"name": "f" "arguments": {}}',
        '{"name": "f", "arguments": {"x": ]}',
        '[{"name": "f"}]',
        "{}",
    ],
)
def test_a_malformed_call_is_content_and_no_call(body: str) -> None:
    text = f"Look: <tool_call>\n{body}\n</tool_call>"
    assert parse_tool_calls(text) == (text, [])
    assert streamed(text, "hermes", size=5) == (text, [])


def test_a_malformed_call_with_words_after_it_stays_content_before_a_good_call() -> None:
    good = '<tool_call>{"name": "f"}</tool_call>'
    bad = "<tool_call>{'name'}</tool_call>"
    assert parse_tool_calls(f"{bad}\n{good}") == (None, [ToolCall("f", {})]), "the model tried again"
    assert parse_tool_calls(f"{bad}\nI mean {good}") == (f"{bad}\nI mean ", [ToolCall("f", {})])
    assert parse_tool_calls('<tool_call>{"name": <tool_call>{"name": "f"}') == (None, [ToolCall("f", {})])


def test_of_equal_keys_the_last_one_counts() -> None:
    _, calls = parse_tool_calls('<tool_call>{"name": "f", "arguments": {"x": 1, "x": 2}}</tool_call>')
    assert calls == [ToolCall("f", {"x": 2})]


def test_nesting_is_allowed_as_deep_as_anybody_needs() -> None:
    deep = '{"name": "f", "arguments": {"x": ' + "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2) + "}}"
    assert len(parse_tool_calls(f"<tool_call>{deep}")[1]) == 1
    assert parse_tool_calls(f"<tool_call>{deep}".replace("[]", "[[]]"))[1] == []


# --- coder


@pytest.mark.parametrize(
    "text",
    [
        coder("<parameter city>Paris</parameter>\n"),
        coder("<parameter=\ncity>Paris</parameter>\n"),
        coder("<parameter=>Paris</parameter>\n"),
        coder("stray text <tool_c"),
        coder("</parameter>"),
        coder(name="a<b"),
        coder(name=""),
        "<tool_call>\n<function=f>\n<parameter=city>\nParis",
        "<tool_call>\n<function=f>\n<parameter=city>\nParis\n</parameter>\n",
        "<tool_call>\n<function=f>",
        "<tool_call>\n<func",
        "<tool_call>\n<functional programming>",
        "<tool_call><tool_call",
    ],
)
def test_malformed_coder_xml_is_content_and_no_call(text: str) -> None:
    """An argument that nobody could read must not be left out of a call that runs."""
    assert parse_tool_calls(text, "coder") == (text, [])
    assert streamed(text, "coder") == (text, [])


def test_a_second_coder_call_does_not_leak_into_the_text_of_the_first() -> None:
    both = coder("<parameter=p>\n1\n</parameter>\n") * 2 + "<function=g></function>"
    assert parse_tool_calls(both, "coder") == (None, [ToolCall("f", {"p": "1"})] * 2 + [ToolCall("g", {})])


def test_a_good_call_within_a_broken_one_is_found() -> None:
    good = coder("<parameter=p>\n1\n</parameter>\n")
    for begun in (
        "<tool_call>",
        "<tool_call>\n<",
        "<tool_call>\n<function=g>\n",
        "<function=g>\n",
        "<function=g",
    ):
        assert streamed(f"{begun}{good}", "coder")[1] == [ToolCall("f", {"p": "1"})]


def test_a_value_may_contain_tags() -> None:
    value = "<tool_call>\n<function=g>\n</tool_call> </parameter>\n</parameter> x"
    text = coder(f"<parameter=p>\n{value}\n</parameter>\n")
    assert streamed(text, "coder") == (None, [ToolCall("f", {"p": value})])


def test_a_call_without_its_closing_function_tag_ends_at_the_closing_call_tag() -> None:
    text = "<tool_call>\n<function=f>\n<parameter=p>\n1\n</parameter>\n</tool_call>"
    assert parse_tool_calls(text, "coder") == (None, [ToolCall("f", {"p": "1"})])


# --- types


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("007", ["integer"], "007"),
        ("7.5", ["integer"], "7.5"),
        ("true", ["integer"], "true"),
        ("1", ["boolean"], "1"),
        ("TRUE", ["boolean"], True),
        ("1e999", ["number"], "1e999"),
        ("NaN", ["number"], "NaN"),
        ("9" * 5000, ["integer"], "9" * 5000),
        ("[" * 100_000, ["array"], "[" * 100_000),
        ("[1]", ["object"], "[1]"),
        ('"\\ud800"', ["object"], '"\\ud800"'),
        ("null", ["string", "null"], None),
        ("null", ["string"], "null"),
        ("null", [], "null"),
        ("7", ["string", "integer"], "7"),
        ("x", ["integer", "string"], "x"),
        ("7", ["null", "integer"], 7),
        ("7", ["no such type"], "7"),
        (" 7 \n", ["integer"], 7),
        (" x ", ["integer"], " x "),
    ],
)
def test_a_text_becomes_the_first_type_that_it_fits_or_stays_a_text(
    text: str, types: list[str], value: Any
) -> None:
    result = typed(text, types)
    assert (type(result), result) == (type(value), value)


@pytest.mark.parametrize(
    "tools",
    [
        None,
        [],
        ["f"],
        [{"function": "f"}],
        [{"name": "f", "parameters": ["p"]}],
        [{"name": "f", "parameters": {"properties": ["p"]}}],
        [{"name": "f", "parameters": {"properties": {"p": 5}}}],
        [{"name": "f", "parameters": {"properties": {"p": {"type": 5, "pattern": "(a+)+b"}}}}],
        [{"name": "f", "parameters": {"properties": {"p": {"type": [{}, None], "anyOf": "x"}}}}],
        [{"name": "g", "parameters": {"properties": {"p": {"type": "integer"}}}}],
    ],
)
def test_a_bad_schema_types_nothing_and_breaks_nothing(tools: Any) -> None:
    assert not parameter_types(tools, "f").get("p")
    text = coder("<parameter=p>\n1\n</parameter>\n")
    assert parse_tool_calls(text, "coder", tools) == (None, [ToolCall("f", {"p": "1"})])


def test_types_are_read_from_a_bare_function_and_a_list_of_types_too() -> None:
    tools = [
        {
            "name": "f",
            "parameters": {"properties": {"p": {"type": ["null", "integer"]}, "q": {"oneOf": [{}]}}},
        }
    ]
    assert parameter_types(tools, "f") == {"p": ["null", "integer"], "q": []}


def test_json_that_hurts_later_is_refused_now() -> None:
    assert json_value('{"a": [1, -2.5, "x"]}') == {"a": [1, -2.5, "x"]}
    for text in ("NaN", "1e400", "9" * 5000, '"\\udfff"', "[" * 100 + "]" * 100, "[" * 100_000, "", "{"):
        with pytest.raises(ValueError):
            json_value(text)


# --- time

HOSTILE: dict[str, Callable[[int], str]] = {
    "angles": lambda n: "<" * n,
    "open tags": lambda n: "<tool_call>" * (n // 11),
    "open tags and blanks": lambda n: "<tool_call>" + " " * n,
    "blanks": lambda n: " \n" * (n // 2),
    "half tags": lambda n: "<tool_cal" * (n // 9),
    "one open brace": lambda n: '<tool_call>{"name": "f", "arguments": {"x": "' + "a" * n,
    "open braces": lambda n: '<tool_call>{"a' * (n // 14),
    "broken calls": lambda n: "<tool_call>{]" * (n // 13),
    "escapes": lambda n: '<tool_call>{"' + "\\" * n,
    "open functions": lambda n: "<function=" * (n // 10),
    "open parameters": lambda n: "<function=f><parameter=p>" + "</parameter> " * (n // 13),
    "values": lambda n: "<function=f>" + "<parameter=p>1" * (n // 14),
    "name": lambda n: "<function=" + "a" * n,
    "thoughts": lambda n: "<think>" + "<tool_call> <function" * (n // 21),
    "a held call": lambda n: "<think><tool_call><function=" + "a" * n,
}


@pytest.mark.parametrize("length", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("style", ["hermes", "coder"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_the_time_is_linear_in_a_hostile_text(kind: str, style: str, length: int) -> None:
    """Character by character and at once; reading it all again at each token takes minutes."""
    text = HOSTILE[kind](length)
    begin = time.process_time()
    parser = Parser(ReplyOptions(style=style))
    for character in text:
        parser.feed(character)
    parser.close()
    parse_tool_calls(text, style)
    assert time.process_time() - begin < 5 * length / 20_000
    assert parser.text == text
    assert not parser.tool_calls


def test_a_search_reads_each_character_once_whatever_the_needle() -> None:
    """The needle's beginning repeats: comparing at each place would take a billion steps."""
    search = Search(["a" * 30_000 + "b"])
    begin = time.process_time()
    found = [search.find("a" * 10) for _ in range(6_000)]
    assert search.find("b") == ("", "a" * 30_000 + "b", 1)
    assert sum(len(before) for before, _, _ in found) == 30_000
    assert time.process_time() - begin < 5


def held(text: str, calls: Any, style: str = "hermes") -> tuple[str | None, list[str]]:
    """An answer whose form says where calls may stand, letter by letter."""
    parser = Parser(ReplyOptions(style=style, calls=calls))
    for letter in text:
        parser.feed(letter)
    parser.close()
    return parser.content, [call.name for call in parser.tool_calls]


@pytest.mark.parametrize("style", ["hermes", "coder"])
def test_an_answer_that_begins_as_text_has_no_calls_where_they_stand_alone(style: str) -> None:
    one = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>' if style == "hermes" else coder()
    for text in (f"Hi {one}", f'{{"a": "{one}"}} <'):
        assert held(text, "alone", style) == (text, [])
    assert held(f"Hi {one}", "whole", style) == ("Hi ", ["f"])
    for calls in ("alone", "whole", "anywhere"):
        assert held(f"\n{one}\n{one}\n{one}", calls, style) == (None, ["f"] * 3)


@pytest.mark.parametrize("style", ["hermes", "coder"])
def test_a_call_of_a_form_that_was_cut_is_not_told(style: str) -> None:
    one = '<tool_call>\n{"name": "f", "arguments": {}}' if style == "hermes" else coder().split("</fun")[0]
    for end in range(len(one)):
        assert held(one[:end], "alone", style) == (None, [])
        if end >= len("<tool_call>"):
            assert held(f"Hi {one[:end]}", "whole", style) == ("Hi ", [])
            assert held(one[:end], "anywhere", style) == (one[:end], [])
    assert held("a <", "whole", style) == held("a <", "alone", style) == ("a <", [])


def test_a_call_in_a_thought_that_the_prompt_had_opened_is_not_found() -> None:
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert parse_tool_calls(f"I could {call} here.\n</think>\n\nNo need.") == ("No need.", [])
