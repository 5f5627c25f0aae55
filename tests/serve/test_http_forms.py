"""Tools and forms in one request, by OpenAI's and Anthropic's own clients: what comes is one or the other."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest
from running import Running

from pureqwen import Qwen
from pureqwen.config import SamplingParams
from pureqwen.serve.form import grammar_of
from pureqwen.serve.protocol.ask import Ask, Form
from pureqwen.serve.protocol.refusal import Refusal

SUM: Any = [{"role": "user", "content": "What is 3 + 4?"}]
PARIS: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "The weather of a place", "parameters": PLACE}
WEATHER: Any = {"type": "function", "function": FUNCTION}
STRICT: Any = {"type": "function", "function": {**FUNCTION, "strict": True}}
SEVEN = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["sum"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SEVEN, "strict": True}}
QUIET: Any = {"enable_thinking": False}
WRONG: Any = {"type": "object", "properties": {"a": {"type": "wat"}}}


@pytest.fixture(scope="module")
def client(served: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def other(served: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as found:
        yield found


def answer(client: openai.OpenAI, messages: Any, **fields: Any) -> Any:
    fields = {"model": "pocket", "temperature": 0, "max_tokens": 300, **fields}
    return client.chat.completions.create(messages=messages, **fields)


def told(choice: Any) -> dict[str, Any]:
    """What a choice says, whether it came in one piece or in a stream."""
    message = choice.message
    return {
        "content": message.content or "",
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "calls": [[call.function.name, call.function.arguments] for call in message.tool_calls or ()],
        "finish": choice.finish_reason,
    }


def streamed(stream: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "finish": None}
    for chunk in stream:
        for choice in chunk.choices:
            found["content"] += choice.delta.content or ""
            found["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
            found["finish"] = choice.finish_reason or found["finish"]
            for delta in choice.delta.tool_calls or ():
                found["calls"] += [["", ""]] if delta.index == len(found["calls"]) else []
                found["calls"][delta.index][0] += delta.function.name or ""
                found["calls"][delta.index][1] += delta.function.arguments or ""
    return found


def both(client: openai.OpenAI, messages: Any, **fields: Any) -> dict[str, Any]:
    """The answer, which must be the same in a stream."""
    whole = told(answer(client, messages, **fields).choices[0])
    assert streamed(answer(client, messages, stream=True, **fields)) == whole
    return whole


@pytest.fixture(scope="module")
def uncalled(pocket: Qwen) -> dict[str, int]:
    """A bias that keeps the pocket from calling: small as it is, it would rather do so than write JSON."""
    assert pocket.tokenizer is not None
    return {str(pocket.tokenizer.token_id("<tool_call>")): -100}


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}], ids=["unsaid", "auto"])
def test_beside_a_format_the_model_calls_or_answers_in_json(
    client: openai.OpenAI, uncalled: dict[str, int], choice: Any, thinking: bool
) -> None:
    fields = {"tools": [WEATHER], "response_format": FORMAT, "extra_body": {"enable_thinking": thinking}}
    found = both(client, PARIS, **fields, **choice)
    assert found["finish"] == "tool_calls" and found["content"] == ""
    assert {name for name, _ in found["calls"]} == {"get_weather"}
    assert all(json.loads(arguments)["city"] in ("Oslo", "Rome") for _, arguments in found["calls"])
    assert bool(found["reasoning"]) == thinking
    found = both(client, SUM, logit_bias=uncalled, **fields, **choice)
    assert found["finish"] == "stop" and not found["calls"]
    assert [*json.loads(found["content"])] == ["sum"] and bool(found["reasoning"]) == thinking


def test_beside_json_object_the_model_calls_or_answers_in_json(
    client: openai.OpenAI, uncalled: dict[str, int]
) -> None:
    fields = {"tools": [WEATHER], "response_format": {"type": "json_object"}, "extra_body": QUIET}
    found = both(client, PARIS, parallel_tool_calls=False, **fields)
    assert found["finish"] == "tool_calls" and len(found["calls"]) == 1
    found = both(client, SUM, logit_bias=uncalled, **{**fields, "max_tokens": 40})
    assert found["content"].startswith("{") and not found["calls"]


def test_without_a_choice_the_format_alone_holds_and_with_a_forced_one_the_call(
    client: openai.OpenAI,
) -> None:
    fields = {"tools": [WEATHER], "response_format": FORMAT, "extra_body": QUIET}
    found = both(client, PARIS, tool_choice="none", **fields)
    assert [*json.loads(found["content"])] == ["sum"] and found["finish"] == "stop"
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        found = both(client, SUM, tool_choice=choice, **fields)
        assert found["calls"] and found["content"] == "" and found["finish"] == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "schema", "parameters", "param"),
    [
        ("auto", {"type": "wat"}, PLACE, "response_format"),
        ("required", {"type": "wat"}, PLACE, "response_format"),
        ("none", {"type": "wat"}, PLACE, "response_format"),
        ("auto", {"type": "string", "pattern": "a{99999}"}, PLACE, "response_format"),
        ("auto", SEVEN, WRONG, "tools"),
        ("auto", SEVEN, {"type": "object", "properties": {"a": {"pattern": "(b"}}}, "tools"),
        ("required", SEVEN, {"type": "object", "properties": {"a": {"pattern": "(b"}}}, "tools"),
        ("auto", {"not": {}}, WRONG, "response_format"),
        (
            "auto",
            {"allOf": [{"type": "string", "pattern": f"a{n}.*"} for n in range(30)]},
            PLACE,
            "response_format",
        ),
    ],
    ids=range(9),
)
def test_a_hostile_schema_is_refused_by_the_field_that_holds_it(
    client: openai.OpenAI, choice: Any, schema: Any, parameters: Any, param: str
) -> None:
    tool = {"type": "function", "function": {**FUNCTION, "parameters": parameters}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        answer(client, SUM, tools=[tool], tool_choice=choice, response_format=wanted)
    assert caught.value.param == param and caught.value.code == "invalid_grammar"


@pytest.mark.parametrize("room", [1, 4, 12, 20])
@pytest.mark.parametrize("kind", ["required", "named", "beside a format", "strict"])
def test_a_call_that_is_cut_is_length_and_no_markup(client: openai.OpenAI, kind: str, room: int) -> None:
    choice: Any = {
        "required": {"tool_choice": "required"},
        "named": {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        "beside a format": {"response_format": FORMAT},
        "strict": {},
    }[kind]
    tools = [STRICT if kind == "strict" else WEATHER]
    found = both(client, PARIS, tools=tools, max_tokens=room, extra_body=QUIET, **choice)
    assert found == {"content": "", "reasoning": "", "calls": [], "finish": "length"}


def test_a_strict_tool_is_held_to_its_schema_also_where_the_model_may_choose(client: openai.OpenAI) -> None:
    """Paris is no city of the schema: what the model would write of its own accord is not what comes."""
    fields = {"extra_body": QUIET}
    free, held = (
        both(client, PARIS, tools=[tool], parallel_tool_calls=False, **fields) for tool in (WEATHER, STRICT)
    )
    assert json.loads(free["calls"][0][1])["city"] == "Paris"
    assert json.loads(held["calls"][0][1])["city"] in ("Oslo", "Rome")
    hello: Any = [{"role": "user", "content": "Hello"}]  # which no tool is needed for
    free, held = (both(client, hello, tools=[tool], **fields) for tool in (WEATHER, STRICT))
    assert free == held and free["finish"] == "stop"


def test_a_strict_tool_whose_schema_can_not_be_held_is_refused(client: openai.OpenAI) -> None:
    odd = {"type": "array", "uniqueItems": True}
    function = {**FUNCTION, "parameters": {"type": "object", "properties": {"a": odd}}}
    assert answer(client, SUM, tools=[{"type": "function", "function": function}], max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        answer(client, SUM, tools=[{"type": "function", "function": {**function, "strict": True}}])
    assert caught.value.param == "tools"


def test_a_forced_call_of_a_tool_that_is_not_strict_comes_whatever_its_schema_says(
    client: openai.OpenAI,
) -> None:
    """As schemas of real tools do; what can be held of them is."""
    odd = {"type": "array", "items": {"type": "string", "pattern": "^(?!-)"}, "uniqueItems": True}
    parameters = {**PLACE, "properties": {**PLACE["properties"], "tags": odd}, "not": {"const": 3}}
    function = {**FUNCTION, "parameters": parameters}
    named = {"type": "function", "function": {"name": "get_weather"}}
    for more in ({"tool_choice": "required"}, {"tool_choice": named}, {"response_format": FORMAT}):
        for strict in (None, False):
            told = {"type": "function", "function": {**function, "strict": strict}}
            found = both(client, PARIS, tools=[told], parallel_tool_calls=False, extra_body=QUIET, **more)
            [(name, arguments)] = found["calls"]
            assert name == "get_weather" and json.loads(arguments)["city"] in ("Oslo", "Rome")
            assert found["content"] == "" and found["finish"] == "tool_calls"
        told = {"type": "function", "function": {**function, "strict": True}}
        with pytest.raises(openai.BadRequestError, match=r"uniqueItems|not|look-around") as caught:
            answer(client, PARIS, tools=[told], extra_body=QUIET, **more)
        assert caught.value.param == "tools"


@pytest.mark.parametrize("style", ["hermes", "coder"])
@pytest.mark.parametrize("kind", ["tools", "strict", "json_schema"])
@pytest.mark.parametrize(
    "parameters",
    [{"properties": []}, {"required": None}, {"required": 5}, {"properties": {"a": 5}}, {"type": "array"}],
    ids=str,
)
def test_bad_parameters_of_a_tool_are_a_refusal_for_each_kind_of_model(
    pocket: Qwen, style: str, kind: Any, parameters: Any
) -> None:
    """With Coder models they were a crash: 500."""
    template: Any = SimpleNamespace(tool_style=style)  # all of a template that counts here
    tools = ({"type": "function", "function": {"name": "f", "parameters": parameters}},)
    form = Form(kind=kind, names=("f",) if kind == "strict" else None)
    ask = Ask(model=None, params=SamplingParams(), tools=tools, form=form, strict=form.names or ())
    with pytest.raises(Refusal) as caught:
        grammar_of(ask, template, pocket.grammars)
    assert (caught.value.status, caught.value.param) == (400, "tools")


@pytest.mark.parametrize("kind", ["tools", "strict", "json_schema"])
def test_a_keyword_that_no_call_of_the_coder_holds_is_a_refusal_where_the_tool_is_strict(
    pocket: Qwen, kind: Any
) -> None:
    template: Any = SimpleNamespace(tool_style="coder")
    parameters = {**PLACE, "dependentRequired": {"city": ["zip"]}}
    tools = ({"type": "function", "function": {"name": "f", "parameters": parameters}},)
    form = Form(kind=kind, names=("f",) if kind == "strict" else None)
    ask = Ask(model=None, params=SamplingParams(), tools=tools, form=form, strict=("f",))
    with pytest.raises(Refusal, match="'dependentRequired' can't be held") as caught:
        grammar_of(ask, template, pocket.grammars)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "tools", "invalid_grammar")


# ---- Anthropic's ----

TOOL: Any = {"name": "get_weather", "description": "The weather of a place", "input_schema": PLACE}
OUTPUT: Any = {"format": {"type": "json_schema", "schema": SEVEN}}


def message(client: anthropic.Anthropic, messages: Any, **fields: Any) -> list[dict[str, Any]]:
    """The blocks and the reason, which must be the same in a stream."""
    body = {"model": "pocket", "max_tokens": 300, "extra_body": {"temperature": 0}, **fields}
    whole = client.messages.create(messages=messages, **body)
    with client.messages.stream(messages=messages, **body) as stream:
        same = stream.get_final_message()
    found = [
        [
            *(block.model_dump(include={"type", "text", "name", "input"}) for block in one.content),
            one.stop_reason,
        ]
        for one in (whole, same)
    ]
    assert found[0] == found[1]
    return found[0]


def test_a_message_with_tools_and_a_format_is_calls_or_json(other: anthropic.Anthropic) -> None:
    fields = {"tools": [TOOL], "output_config": OUTPUT}
    *calls, reason = message(other, PARIS, **fields)
    assert reason == "tool_use" and {call["input"]["city"] for call in calls} <= {"Oslo", "Rome"}
    *blocks, reason = message(other, SUM, **fields)  # which of both is the model's choice
    told = [[*(block.get("input") or json.loads(block["text"]))] for block in blocks]
    assert (reason, {*map(tuple, told)}) in (("tool_use", {("city",)}), ("end_turn", {("sum",)}))
    text, reason = message(other, PARIS, tool_choice={"type": "none"}, **fields)
    assert reason == "end_turn" and [*json.loads(text["text"])] == ["sum"]
    *calls, reason = message(other, SUM, tool_choice={"type": "any"}, **fields)
    assert reason == "tool_use" and {call["type"] for call in calls} == {"tool_use"}


def test_a_strict_tool_of_a_message_is_held_and_a_cut_call_is_no_text(other: anthropic.Anthropic) -> None:
    strict: Any = {**TOOL, "strict": True}
    single: Any = {"type": "auto", "disable_parallel_tool_use": True}
    call, reason = message(other, PARIS, tools=[strict], tool_choice=single)
    assert reason == "tool_use" and call["input"]["city"] in ("Oslo", "Rome")
    for fields in ({"tools": [strict]}, {"tools": [TOOL], "output_config": OUTPUT}):
        assert message(other, PARIS, **{**fields, "max_tokens": 12}) == ["max_tokens"]


def test_a_hostile_schema_in_a_message_is_refused_by_the_name_of_its_field(
    other: anthropic.Anthropic,
) -> None:
    bad: Any = {"format": {"type": "json_schema", "schema": {"type": "wat"}}}
    for choice in ("auto", "any", "none"):
        with pytest.raises(anthropic.BadRequestError, match=r"output_config\.format"):
            message(other, SUM, tools=[TOOL], output_config=bad, tool_choice={"type": choice})
    wrong: Any = {**TOOL, "input_schema": WRONG}
    with pytest.raises(anthropic.BadRequestError, match="tools: "):
        message(other, SUM, tools=[wrong], output_config=OUTPUT)
