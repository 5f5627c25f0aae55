"""Answers of a given form: what is written fits, what can't be made a grammar is named, and nothing hangs."""

import json
import random
import re
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import pureqwen
from pureqwen import Qwen, SamplingParams, parse_tool_calls
from pureqwen.chat import Reply, ReplyOptions
from pureqwen.generate import Grammar, GrammarError, Grammars, Row, constrain

CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"enum": ["small", "large"]},
        "people": {"type": "integer", "minimum": 0, "maximum": 9999},
        "capital": {"type": "boolean"},
    },
    "required": ["name", "size", "people", "capital"],
    "additionalProperties": False,
}


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters, "required": [*parameters][:1]}
    function = {"name": name, "parameters": {**schema, "additionalProperties": False}}
    return {"type": "function", "function": function}


WEATHER = tool("weather", city={"type": "string", "maxLength": 9}, unit={"enum": ["C", "F"]})
CLOCK = tool("clock", zone={"enum": ["CET", "UTC"]}, hours={"type": "integer", "minimum": 0, "maximum": 12})


@pytest.fixture(scope="module")
def qwen() -> Qwen:
    torch.set_num_threads(1)
    return pureqwen.load()


@pytest.fixture
def grammars(qwen: Qwen) -> Grammars:
    """New ones: nothing is kept from another test."""
    assert qwen.tokenizer is not None
    return Grammars(qwen.tokenizer, eos_ids=qwen.eos_ids)


def row(
    qwen: Qwen, grammar: Grammar | None, *, chat: bool = False, thinking: bool = True, **fields: Any
) -> Row:
    params = SamplingParams(**{"temperature": 1.0, "seed": 0, "max_tokens": 400, **fields})
    if chat:
        return qwen.intake.chat("hello", None, thinking, params, constraint=grammar)
    return qwen.intake.text("x", params, constraint=grammar)


def wander(one: Row, *, seed: int, scale: float = 3.0, wish: Sequence[int] = ()) -> Row:
    """Write with logits by lot, first those that wish for certain ids: whatever is allowed may come."""
    torch.manual_seed(seed)
    wishes = [*wish]
    while not one.finished:
        logits = torch.randn(1024) * scale
        if wishes:
            logits[wishes.pop(0)] = 1e4
        one.accept(logits)
    return one


def ids(qwen: Qwen, text: str) -> list[int]:
    assert qwen.tokenizer is not None
    return qwen.tokenizer.encode(text, allow_special=True)


# ---- what is written fits --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_json_of_a_schema_fits_it_whatever_the_model_wants(qwen: Qwen, seed: int) -> None:
    one = wander(row(qwen, qwen.grammars.json_schema(CITY)), seed=seed)
    assert one.reply.finish_reason == "stop"
    found = json.loads(one.reply.text)
    assert [*found] == [*CITY["properties"]]
    assert isinstance(found["name"], str) and len(found["name"]) <= 8
    assert found["size"] in ("small", "large") and type(found["capital"]) is bool
    assert 0 <= found["people"] <= 9999


@pytest.mark.parametrize("seed", range(4))
def test_a_json_object_is_an_object(qwen: Qwen, seed: int) -> None:
    """By lot it would never end: here it wants to close what is open."""
    one = row(qwen, qwen.grammars.json_object())
    torch.manual_seed(seed)
    closing = ids(qwen, '"]}:1')
    while not one.finished:
        logits = torch.randn(1024)
        logits[closing] += torch.rand(len(closing)) * 8
        one.accept(logits)
    assert one.reply.finish_reason == "stop", one.reply.text
    assert isinstance(json.loads(one.reply.text), dict)


@pytest.mark.parametrize(
    "pattern",
    [
        "[a-z]{3} [0-9]{2}",
        "(a+)+b",
        "a/b|c\\/d",
        "yes|no",
        "\\d{4}-\\d{2}-\\d{2}",
        "ä{2}ß?",
        "line\none",
        '"[^"]{1,5}"',
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_pattern_matches_the_whole_text(qwen: Qwen, pattern: str, seed: int) -> None:
    one = wander(row(qwen, qwen.grammars.regex(pattern)), seed=seed)
    assert one.reply.finish_reason == "stop"
    assert re.fullmatch(pattern, one.reply.text), one.reply.text


@pytest.mark.parametrize("style", ["hermes", "coder"])
@pytest.mark.parametrize("seed", range(6))
def test_calls_of_tools_are_calls_of_both_styles(qwen: Qwen, style: str, seed: int) -> None:
    weather = tool("weather", city={"enum": ["Oslo", "Rome"]}, unit={"enum": ["C", "F"]})
    grammar = qwen.grammars.tools([weather, CLOCK], style=style, parallel=False)
    one = wander(row(qwen, grammar), seed=seed)
    assert one.reply.finish_reason == "stop"
    content, [call] = parse_tool_calls(one.reply.text, style=style, tools=[weather, CLOCK])
    assert content is None
    if call.name == "weather":
        assert call.arguments["city"] in ("Oslo", "Rome")
        assert call.arguments.get("unit", "C") in ("C", "F")
    else:
        assert call.arguments["zone"] in ("CET", "UTC")
        assert call.arguments.get("hours", 1) in range(13)


@pytest.mark.parametrize("style", ["hermes", "coder"])
def test_only_the_named_tool_is_called(qwen: Qwen, style: str) -> None:
    grammar = qwen.grammars.tools([WEATHER, CLOCK], style=style, names=["clock"], parallel=False)
    for seed in range(4):
        one = wander(row(qwen, grammar), seed=seed)
        _, calls = parse_tool_calls(one.reply.text, style=style, tools=[WEATHER, CLOCK])
        assert [call.name for call in calls] == ["clock"]


def test_a_bare_text_of_the_coder_ends_at_its_tag_and_holds_no_other(qwen: Qwen) -> None:
    head = "<tool_call>\n<function=weather>\n<parameter=city>\n"
    text = 'New "York" <b> \\ {x}\nN.Y.'
    tail = "\n</parameter>\n</function>\n</tool_call><|im_end|>"
    grammar = qwen.grammars.tools([WEATHER], style="coder", parallel=False)
    one = wander(row(qwen, grammar), seed=0, wish=ids(qwen, head + text + tail))
    _, [call] = parse_tool_calls(one.reply.text, style="coder", tools=[WEATHER])
    assert call.arguments == {"city": text}
    for tag in ("</function>", "<parameter=unit>", "</tool_call>"):
        nested = wander(row(qwen, grammar, max_tokens=90), seed=0, wish=ids(qwen, f"{head}a {tag} b{tail}"))
        assert f"a {tag}" not in nested.reply.text


def test_several_calls_come_only_where_they_may_be_parallel(qwen: Qwen) -> None:
    call = '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>'
    wish = ids(qwen, f"{call}\n{call}<|im_end|>")
    for parallel, count in ((True, 2), (False, 1)):
        grammar = qwen.grammars.tools([CLOCK], style="hermes", parallel=parallel)
        one = wander(row(qwen, grammar), seed=0, wish=wish)
        assert len(parse_tool_calls(one.reply.text)[1]) == count


def test_a_tool_without_parameters_takes_none(qwen: Qwen) -> None:
    grammar = qwen.grammars.tools([{"name": "now"}], style="hermes", parallel=False)
    _, [call] = parse_tool_calls(wander(row(qwen, grammar), seed=1).reply.text)
    assert (call.name, call.arguments) == ("now", {})


@pytest.mark.parametrize("question", ["What is 347 * 86?", "Spell the word cat."])
def test_answers_of_the_pocket_under_a_schema_parse(qwen: Qwen, question: str) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "integer"}, "sure": {"type": "boolean"}},
        "required": ["answer", "sure"],
        "additionalProperties": False,
    }
    for thinking in (True, False):
        grammar = qwen.grammars.json_schema(schema)
        result = qwen.chat(question, thinking=thinking, constraint=grammar, max_tokens=400)
        assert result.finish_reason == "stop" and result.content is not None
        assert {key: type(value) for key, value in json.loads(result.content).items()} == {
            "answer": int,
            "sure": bool,
        }
        assert (result.reasoning is not None) == thinking


def test_the_pocket_calls_the_tool_it_must(qwen: Qwen) -> None:
    grammar = qwen.grammars.tools([WEATHER], style="hermes", parallel=False)
    result = qwen.chat("What is the weather in Oslo?", [WEATHER], constraint=grammar, max_tokens=200)
    assert result.finish_reason == "tool_calls" and result.content is None
    assert [(call.name, call.arguments["city"]) for call in result.tool_calls] == [("weather", "Oslo")]


# ---- where it begins and ends ----------------------------------------------------------------------------


def test_a_constraint_begins_after_the_thinking(qwen: Qwen) -> None:
    wish = ids(qwen, "<think>\nAnything {at} all.\n</think>\n\n42<|im_end|>")
    one = wander(row(qwen, qwen.grammars.regex("[0-9]+"), chat=True), seed=0, wish=wish)
    assert one.output == wish
    assert (one.reply.reasoning, one.reply.content) == ("Anything {at} all.", "42")


def test_a_model_that_may_not_think_begins_with_the_text(qwen: Qwen) -> None:
    """Its prompt holds an empty thought: another would be refused, and blank lines are no answer."""
    wish = ids(qwen, "<think>\n")
    one = wander(row(qwen, qwen.grammars.regex("[0-9]{2}"), chat=True, thinking=False), seed=0, wish=wish)
    assert re.fullmatch("[0-9]{2}", one.reply.text)


def test_only_one_thought_and_two_line_breaks_come_before_the_answer(qwen: Qwen) -> None:
    thought = "<think>\na\n</think>\n\n"
    one = wander(
        row(qwen, qwen.grammars.regex("[0-9]{2}"), chat=True),
        seed=0,
        wish=ids(qwen, thought + "\n" + thought),
    )
    assert re.fullmatch(re.escape(thought) + "[0-9]{2}", one.reply.text)


def test_a_thinking_budget_ends_the_thought_and_the_constraint_begins(qwen: Qwen) -> None:
    wish = [*ids(qwen, "<think>"), *ids(qwen, "word ") * 40]
    grammar = qwen.grammars.regex("[0-9]{2}")
    one = wander(row(qwen, grammar, chat=True, thinking_budget=6), seed=0, wish=wish)
    assert one.reply.finish_reason == "stop" and one.num_forced > 0
    assert re.fullmatch("[0-9]{2}", one.reply.content or "")


def test_the_end_of_text_inside_the_thinking_is_no_way_past_the_form(qwen: Qwen) -> None:
    """Nothing is held there: the answer was empty, and said "stop"."""
    wish, closed = ids(qwen, "<think>\nHm.<|im_end|>"), ids(qwen, "</think>\n\n")
    one = wander(row(qwen, qwen.grammars.regex("[0-9]{2}"), chat=True, logprobs=True), seed=0, wish=wish)
    assert one.output[: len(wish) - 1 + len(closed)] == [*wish[:-1], *closed]
    assert one.reply.reasoning == "Hm." and re.fullmatch("[0-9]{2}", one.reply.content or "")
    begun = len(wish) - 1
    assert [n for n, score in enumerate(one.logprobs) if score.forced] == [begun, begun + 1]
    assert one.num_forced == len(closed) == 2 and one.reply.finish_reason == "stop"


def test_a_model_that_always_wants_to_end_calls_the_tool_it_must(qwen: Qwen) -> None:
    [end] = ids(qwen, "<|im_end|>")
    grammar = qwen.grammars.tools([WEATHER], style="hermes", parallel=False)
    bias = {"logit_bias": {end: 100.0, ids(qwen, "<think>")[0]: 50.0}}
    result = qwen.chat("Hello", [WEATHER], constraint=grammar, temperature=0, max_tokens=200, **bias)
    assert result.reasoning is None and result.usage.forced_tokens == 2
    assert result.finish_reason == "tool_calls" and [call.name for call in result.tool_calls] == ["weather"]


def test_a_budget_closes_a_thought_that_would_end_the_text_before_it_is_used_up(qwen: Qwen) -> None:
    """Pitfall 27: a thinking budget that ends in no answer."""
    wish, rest = ids(qwen, "<think>\nHm.<|im_end|>"), ids(qwen, "42<|im_end|>")
    closed = ids(qwen, "</think>\n\n")
    one = row(qwen, None, chat=True, thinking_budget=50)
    wander(one, seed=0, wish=[*wish, wish[-1], *rest])
    assert one.output == [*wish[:-1], *closed, *rest]
    assert (one.reply.reasoning, one.reply.content, one.num_forced) == ("Hm.", "42", 2)


def test_a_tag_that_is_to_end_the_answer_does(qwen: Qwen) -> None:
    [close] = ids(qwen, "</think>")
    wish = ids(qwen, "<think>\nHm.<|im_end|>")
    for last in (close, wish[-1]):
        one = row(qwen, qwen.grammars.regex("[0-9]{2}"), chat=True, stop_token_ids=(close,))
        wander(one, seed=0, wish=[*wish[:-1], last])
        assert (one.output, one.reply.finish_reason) == ([*wish[:-1], last], "stop")
        assert one.num_forced == 0


@pytest.mark.parametrize("held", [True, False])
def test_a_call_begun_in_a_thought_ends_the_answer_but_where_a_form_is_to_hold(
    qwen: Qwen, held: bool
) -> None:
    call = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"
    grammar = qwen.grammars.regex("[0-9]{2}") if held else None
    one = row(qwen, grammar, chat=True, thinking_budget=300)
    ends = frozenset(one.sampler.end_ids)
    options = ReplyOptions(inside=True, style="coder", tools=[WEATHER], end_ids=ends)
    assert qwen.tokenizer is not None
    one.reply = Reply(qwen.tokenizer, options=options)
    wander(one, seed=0, wish=ids(qwen, f"Hm.\n{call}<|im_end|>"))
    if held:
        assert not one.reply.tool_calls and re.fullmatch("[0-9]{2}", one.reply.content or "")
    else:
        assert [call.arguments for call in one.reply.tool_calls] == [{"city": "Oslo"}]
        assert one.num_forced == 0


def test_the_end_of_text_waits_until_the_text_is_whole(qwen: Qwen) -> None:
    end = ids(qwen, "<|im_end|>")
    one = wander(row(qwen, qwen.grammars.regex("[0-9]{3}")), seed=0, wish=end * 9)
    assert re.fullmatch("[0-9]{3}", one.reply.text)
    assert one.reply.finish_reason == "stop" and one.output[-1:] == end


def test_a_whole_text_that_may_not_end_by_a_token_ends_all_the_same(qwen: Qwen) -> None:
    one = wander(row(qwen, qwen.grammars.regex("[0-9]{3}"), ignore_eos=True), seed=0)
    assert re.fullmatch("[0-9]{3}", one.reply.text)
    assert one.reply.finish_reason == "stop" and one.error is None


def test_max_tokens_cuts_a_constrained_text(qwen: Qwen) -> None:
    one = wander(row(qwen, qwen.grammars.regex("[0-9]{30}"), max_tokens=7), seed=0)
    assert (one.reply.finish_reason, len(one.output)) == ("length", 7)


# ---- beside the other rules ------------------------------------------------------------------------------


def test_min_tokens_holds_as_long_as_the_form_lets_it(qwen: Qwen) -> None:
    end = ids(qwen, "<|im_end|>")
    one = wander(row(qwen, qwen.grammars.regex("a*"), min_tokens=5), seed=0, wish=end * 50)
    assert len(one.output) >= 5 and one.reply.finish_reason == "stop"
    short = wander(row(qwen, qwen.grammars.regex("ab"), min_tokens=5), seed=0, wish=end * 50)
    assert (short.reply.text, short.reply.finish_reason, short.error) == ("ab", "stop", None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_of_minus_100_on_everything_allowed_still_leaves_what_fits(
    qwen: Qwen, temperature: float
) -> None:
    bias = dict.fromkeys(range(1024), -100.0)
    fields = {"temperature": temperature, "logit_bias": bias}
    one = wander(row(qwen, qwen.grammars.regex("(yes|no)"), **fields), seed=3)
    assert one.reply.text in ("yes", "no")
    only = dict.fromkeys(ids(qwen, "0123456789<|im_end|>"), -100.0)
    digit = wander(row(qwen, qwen.grammars.regex("[0-9]"), temperature=temperature, logit_bias=only), seed=3)
    assert re.fullmatch("[0-9]", digit.reply.text)


def test_penalties_and_cuts_choose_among_what_is_allowed(qwen: Qwen) -> None:
    fields = {"repetition_penalty": 1.5, "top_k": 1, "top_p": 0.1, "presence_penalty": 1.0}
    one = wander(row(qwen, qwen.grammars.regex("[ab]{12}"), **fields), seed=0)
    assert re.fullmatch("[ab]{12}", one.reply.text)


def test_log_probabilities_are_the_models_own_not_the_grammars(qwen: Qwen) -> None:
    grammar = qwen.grammars.regex("[0-9]{2}")
    result = qwen.generate("The year 19", temperature=0, logprobs=True, constraint=grammar)
    free = qwen.generate("The year 19", temperature=0, logprobs=True, top_logprobs=20, max_tokens=1)
    assert result.logprobs is not None and free.logprobs is not None
    best = {token: value for token, _, value in free.logprobs[0].top}
    first = result.logprobs[0]
    assert first.logprob == pytest.approx(best[first.token_id], abs=1e-4)
    assert first.logprob <= max(best.values())


def test_rows_of_one_grammar_do_not_disturb_each_other(qwen: Qwen) -> None:
    grammar = qwen.grammars.regex("[0-9]{2}[a-z]{3}")
    alone = [wander(row(qwen, grammar), seed=seed).reply.text for seed in (1, 2)]
    first, second = row(qwen, grammar), row(qwen, grammar)
    draws = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        draws.append([torch.randn(1024) * 3 for _ in range(30)])
    for one, other in zip(*draws, strict=True):
        for which, logits in ((first, one), (second, other)):
            if not which.finished:
                which.accept(logits)
    assert [first.reply.text, second.reply.text] == alone


def test_a_batch_holds_each_row_to_the_form(qwen: Qwen) -> None:
    results = qwen.generate(["1 + 1 = ", "the"], constraint=qwen.grammars.regex("[0-9]{2}"), temperature=1.0)
    assert all(re.fullmatch("[0-9]{2}", result.text) for result in results)


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, "strin"),
        ({"type": "object", "properties": {"a": {"type": "wrong"}}}, "#/properties/a.*wrong"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "(b"}}},
            "#/properties/a.*regex",
        ),
        ({"type": "object", "properties": {"a": {"items": [{"type": 7}]}}}, "#/properties/a"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"$ref": "#"}, "no text fits it"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "5"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": "\ud800"}, "not JSON"),
        ({"const": {1, 2}}, "not JSON"),
        ([], "a JSON object, not list"),
        ("object", "a JSON object, not str"),
        ({"type": "string", "pattern": "((a{100}){100}){100}"}, "repeats its parts 1000000 times"),
        ({"type": "string", "pattern": "a" * 20_000}, "20000 characters"),
        ({"enum": ["x" * 300_000]}, "bytes"),
        ({"properties": {str(n): {} for n in range(4001)}}, "4000 properties"),
    ],
)
def test_a_bad_schema_is_an_error_that_names_what_is_wrong(
    grammars: Grammars, schema: Any, message: str
) -> None:
    with pytest.raises(GrammarError, match=message) as found:
        grammars.json_schema(schema)
    assert "\n" not in str(found.value)


def test_the_place_is_found_in_a_schema_whose_parts_refer_to_one_another(grammars: Grammars) -> None:
    """A part by itself has no "#/properties/...": that is no error of its own to tell of."""
    fields: dict[str, Any] = {f"k{n}": {"type": "string", "pattern": f"^{n}$"} for n in range(20)}
    bad, same = {"bad": {"type": "wrong"}}, {"same": {"$ref": "#/properties/k1"}}
    for last in ({**bad, **same}, {**same, **bad}):
        with pytest.raises(GrammarError, match="at #/properties/bad: Invalid type: wrong"):
            grammars.json_schema({"type": "object", "properties": {**fields, **last}})


def test_a_schema_that_is_nested_too_deep_is_refused(grammars: Grammars) -> None:
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    with pytest.raises(GrammarError, match="nested deeper than 64"):
        grammars.json_schema(deep)
    for _ in range(sys.getrecursionlimit() * 3):
        deep = {"items": deep}
    with pytest.raises(GrammarError, match="nested deeper than 64"):
        grammars.json_schema(deep)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a", "unclosed group"),
        ("a{3,1}", "regex"),
        ("(?=a)b", "look-around"),
        ("(a)\\1", "backreferences"),
        ("[z-a]", "regex"),
        ("((a{100}){100}){100}", "1000000 times"),
        ("a" * 17_000, "17000 characters"),
        ("\udfff", "not Unicode"),
        (7, "a string, not int"),
        (None, "a string, not NoneType"),
    ],
)
def test_a_bad_pattern_is_an_error_that_names_what_is_wrong(
    grammars: Grammars, pattern: Any, message: str
) -> None:
    with pytest.raises(GrammarError, match=message):
        grammars.regex(pattern)


@pytest.mark.parametrize(
    ("tools", "how", "message"),
    [
        ([tool("f", a={"type": "string", "pattern": "(b"})], {}, "regex"),
        ([tool("f", a={"type": "text"})], {}, "text"),
        ([WEATHER], {"names": ["clock"]}, "no tool 'clock'; there are weather"),
        ([], {}, "at least one tool"),
        ([{"type": "function"}], {}, r"tools\[0\] has no function with a name"),
        ([{"function": {"name": ""}}], {}, r"tools\[0\]"),
        ([3], {}, r"tools\[0\]"),
        ([{"name": "f", "parameters": [1]}], {}, "parameters of the tool 'f'"),
        ([WEATHER], {"style": "latin"}, "latin"),
        ([{"name": "a>b"}], {"style": "coder"}, "a>b"),
        ([tool("f", **{"x\ny": {}})], {"style": "coder"}, "parameter of the tool 'f'"),
    ],
)
def test_a_bad_tool_is_an_error_that_names_what_is_wrong(
    grammars: Grammars, tools: Any, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(GrammarError, match=message):
        grammars.tools(tools, **{"style": "hermes", **how})


def test_a_schema_can_not_change_how_it_is_read(qwen: Qwen, grammars: Grammars) -> None:
    """Its own "x-guidance" would turn off what makes a keyword that isn't enforced an error."""
    with pytest.raises(GrammarError, match="uniqueItems"):
        grammars.json_schema({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}})


def test_a_tool_or_a_text_can_not_smuggle_in_rules(qwen: Qwen) -> None:
    """Names and values are quoted: what looks like the grammar's own syntax is only text."""
    name = 'f" | "x\nstart: /.*/'
    grammar = qwen.grammars.tools([{"name": name}], style="hermes", parallel=False)
    _, [call] = parse_tool_calls(wander(row(qwen, grammar), seed=0).reply.text)
    assert call.name == name
    pattern = wander(row(qwen, qwen.grammars.regex("a/\nstart: b")), seed=0).reply.text
    assert pattern == "a/\nstart: b"


def test_control_tokens_are_no_text_of_a_grammar(qwen: Qwen) -> None:
    """ "<|im_end|>" inside a string is nine letters, not the token: it could end a turn (PITFALLS 19)."""
    one = wander(row(qwen, qwen.grammars.regex("<\\|im_end\\|>!")), seed=0)
    assert one.reply.text == "<|im_end|>!"
    assert ids(qwen, "<|im_end|>")[0] not in one.output[:-1]


def test_a_model_without_a_tokenizer_says_that_it_can_not(qwen: Qwen) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        Qwen(qwen.model).grammars  # noqa: B018


def test_a_missing_llguidance_is_one_line_that_names_the_extra(
    qwen: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert qwen.tokenizer is not None
    with pytest.raises(ValueError, match=r"pip install 'pureqwen\[serve\]'"):
        Grammars(qwen.tokenizer)


# ---- time, size and failure ------------------------------------------------------------------------------


def test_a_pattern_that_stalls_a_backtracking_matcher_costs_nothing_here(qwen: Qwen) -> None:
    began = time.perf_counter()
    one = row(qwen, qwen.grammars.regex("(a+)+b"), max_tokens=300)
    wander(one, seed=0, wish=ids(qwen, "a") * 300)
    assert one.reply.text == "a" * 300
    assert time.perf_counter() - began < 5


def test_what_takes_too_long_to_compile_is_given_up(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()
    start = constrain.start

    def slow(*given: Any) -> Any:
        waiting.wait(20)
        return start(*given)

    monkeypatch.setattr(constrain, "start", slow)
    grammars._seconds = 0.05
    began = time.perf_counter()
    for _ in range(constrain.COMPILING):
        with pytest.raises(GrammarError, match=r"takes longer than 0\.05 s to compile"):
            grammars.regex("a")
    with pytest.raises(GrammarError, match="too many grammars are being compiled"):
        grammars.regex("a")
    assert time.perf_counter() - began < 5
    waiting.set()  # those that were given up end, and make room
    for thread in threading.enumerate():
        if thread.name == "grammar":
            thread.join(20)
    grammars._seconds = 2.0
    grammars.regex("a")


@pytest.mark.parametrize("panics", [True, False])
def test_a_compiler_that_breaks_or_hangs_while_the_place_of_an_error_is_sought_leaves_the_error(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, panics: bool
) -> None:
    """A panic is none of Exception: outside the guarded thread it went through every layer of a server."""
    start, calls, waiting = constrain.start, list[str](), threading.Event()

    def once(tokens: Any, form: str) -> Any:
        calls.append(threading.current_thread().name)
        if len(calls) == 1:
            return start(tokens, form)
        if panics:
            raise BaseException("out of its mind")
        waiting.wait(20)
        return start(tokens, form)

    monkeypatch.setattr(constrain, "start", once)
    began = time.perf_counter()
    with pytest.raises(GrammarError, match="made a grammar: Invalid type: wrong"):
        grammars.json_schema({"type": "object", "properties": {"bad": {"type": "wrong"}}})
    assert time.perf_counter() - began < 10
    waiting.set()
    for thread in threading.enumerate():
        if thread.name == "grammar":
            thread.join(20)
    assert len(calls) >= 2 and set(calls) == {"grammar"}


def test_a_compiler_that_breaks_is_an_error_and_no_more(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise BaseException("out of its mind")

    monkeypatch.setattr(constrain, "start", broken)
    for _ in range(constrain.COMPILING + 1):
        with pytest.raises(GrammarError, match=r"the compiler failed \(out of its mind"):
            grammars.regex("a")


def test_a_form_is_compiled_once_and_the_last_ones_are_kept(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unique schemas must not fill the memory (CVE-2025-29770)."""
    compiled: list[str] = []
    start = constrain.start

    def counting(tokens: Any, form: str) -> Any:
        compiled.append(form)
        return start(tokens, form)

    monkeypatch.setattr(constrain, "start", counting)
    first = grammars.regex("first")
    for n in range(constrain.KEPT * 2):
        grammars.regex(f"a{n}")
        assert grammars.regex("first") is first  # used again and again, so it stays
    assert len(compiled) == 1 + constrain.KEPT * 2
    assert len(grammars._kept) == constrain.KEPT
    grammars.regex("a0")
    assert len(compiled) == 2 + constrain.KEPT * 2


def test_a_grammar_that_fails_ends_its_own_row_only(qwen: Qwen) -> None:
    """A grammar error has killed a shared engine elsewhere (CVE-2026-105757)."""
    grammar = qwen.grammars.regex("[0-9]{2}[a-z]{3}")
    bad, good = (row(qwen, grammar) for _ in range(2))
    torch.manual_seed(0)
    bad.accept(torch.randn(1024))
    assert bad.constraint is not None
    bad.constraint._matcher.consume_token(ids(qwen, "?")[0])  # which the grammar forbids
    events = bad.accept(torch.randn(1024))
    assert bad.finished and events
    result = bad.result()
    assert result.finish_reason == "interrupted"
    assert result.error is not None and "the grammar failed in the middle of the answer" in result.error
    assert re.fullmatch("[0-9]{2}[a-z]{3}", wander(good, seed=0).reply.text)


def test_a_grammar_that_grows_too_complex_is_an_error_and_no_hang(
    qwen: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert qwen.tokenizer is not None
    monkeypatch.setattr(constrain, "STATES", 50)
    grammars = Grammars(qwen.tokenizer, eos_ids=qwen.eos_ids)
    began = time.perf_counter()
    with pytest.raises(GrammarError):
        grammar = grammars.regex("(a|b)*a(a|b){12}c")
        letters = random.Random(0).choices(ids(qwen, "ab"), k=300)
        one = wander(row(qwen, grammar), seed=0, wish=letters)
        assert one.error is not None
        raise one.error
    assert time.perf_counter() - began < 5


def patterned(n: int) -> dict[str, Any]:
    return {"type": "string", "pattern": f"a{{{n},}}.*b{{{n},}}"}


CHAIN = {f"d{n}": {**patterned(n), "$ref": f"#/$defs/d{n + 1}"} for n in range(40)} | {"d40": patterned(40)}


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [patterned(n) for n in range(30)]},
        {"allOf": [{"anyOf": [patterned(n), {"type": "string"}]} for n in range(30)]},
        {"allOf": [{"properties": {"x": patterned(n)}} for n in range(30)]},
        {"allOf": [{"items": patterned(n)} for n in range(30)]},
        {"allOf": [{"allOf": [patterned(n), patterned(n + 9)]} for n in range(15)]},
        {"allOf": [{"$ref": f"#/$defs/d{n}"} for n in range(0, 40, 2)], "$defs": CHAIN},
        {"$ref": "#/$defs/d0", "$defs": CHAIN},
        {"properties": {"x": {"$ref": "#/%24defs/d0"}}, "$defs": CHAIN},
        {"$ref": "#somewhere", "$defs": {**CHAIN, "z": {"$anchor": "somewhere"}}},
    ],
)
def test_a_join_of_many_patterns_is_refused_before_it_takes_all_memory(
    grammars: Grammars, schema: dict[str, Any]
) -> None:
    """Compiling the first of these took gigabytes, in a thread that no time limit ends."""
    with pytest.raises(GrammarError, match="more than 12 patterns at once"):
        grammars.json_schema(schema)


def test_many_patterns_that_are_not_joined_are_taken(grammars: Grammars) -> None:
    fields = {f"k{n}": {"type": "string", "pattern": f"^[a-z]{{{n + 1}}}$"} for n in range(40)}
    grammars.json_schema({"type": "object", "properties": fields})
    entry = {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
    parts = {
        name: {"type": "object", "properties": {f"{name}{k}": v for k, v in fields.items()}} for name in "ab"
    }
    grammars.json_schema({"type": "array", "items": entry, "$defs": parts})
    tree = {"type": "object", "properties": {**fields, "next": {"$ref": "#/$defs/tree"}}}
    grammars.json_schema({"$ref": "#/$defs/tree", "$defs": {"tree": tree}})


def test_schemas_compiled_from_several_threads_are_all_right(grammars: Grammars) -> None:
    done: list[Grammar] = []

    def work(n: int) -> None:
        done.append(grammars.json_schema({"const": n}))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(done) == 8
