"""/v1/chat/completions to what the engine is asked for: each field has an effect or is refused by name."""

import json
from typing import Any

import pytest

from pureqwen.config import SamplingParams, ServeConfig
from pureqwen.config.serving import EFFORTS
from pureqwen.serve.protocol.ask import Ask, Form, check_model, check_rows
from pureqwen.serve.protocol.body import read
from pureqwen.serve.protocol.chat import ChatRequest, chat_ask
from pureqwen.serve.protocol.refusal import Refusal

ADD = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}, "strict": True}
TOOLS = [{"type": "function", "function": ADD}]
SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}}


def asked(config: ServeConfig | None = None, **fields: Any) -> Ask:
    body = {"model": "pocket", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return chat_ask(read(ChatRequest, body)[0], config or ServeConfig())


def refused(config: ServeConfig | None = None, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        ask = asked(config, **fields)
        check_model(ask, config or ServeConfig())
        check_rows(ask, config or ServeConfig())
    assert caught.value.status in (400, 404)
    return caught.value


def test_a_request_without_options_leaves_everything_to_the_model() -> None:
    ask = asked()
    assert ask.params == SamplingParams()
    assert (ask.thinking, ask.effort, ask.n, ask.stream, ask.form) == (None, None, 1, False, None)
    assert ask.messages == ({"role": "user", "content": "Hi"},)


def test_the_sampling_fields_are_the_parameters_of_the_same_name() -> None:
    fields = {"temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 7, "min_tokens": 2}
    fields |= {"presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "ignore_eos": True}
    params = asked(**fields, stop="a", stop_token_ids=[5], logit_bias={"5": -100}, max_tokens=9).params
    assert {name: getattr(params, name) for name in fields} == fields
    assert (params.stop, params.stop_token_ids, params.max_tokens) == (("a",), (5,), 9)
    assert params.logit_bias == {5: -100}


def test_max_completion_tokens_is_max_tokens() -> None:
    assert asked(max_completion_tokens=5).params.max_tokens == 5
    assert asked(max_completion_tokens=5, max_tokens=5).params.max_tokens == 5
    assert refused(max_completion_tokens=5, max_tokens=6).param == "max_completion_tokens"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", 10**400),
        ("temperature", True),
        ("temperature", "1"),
        ("top_p", 0),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_tokens", -5),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("max_completion_tokens", -1),
        ("top_logprobs", 2),
        ("n", 0),
        ("n", -1),
        ("n", 17),
        ("n", 1_000_000),
        ("n", 10**4000),
        ("stop", ["a"] * 17),
        ("stop", [""]),
        ("stop", ""),
        ("stop_token_ids", [-1]),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"\u00b2": 1}),
        ("logit_bias", {str(n): 1 for n in range(1025)}),
        ("top_logprobs", 21),
        ("top_logprobs", -1),
        ("thinking_budget", -1),
        ("messages", []),
        ("store", True),
        ("service_tier", "priority"),
        ("user", 3),
        ("stream_options", {"include_usage": True}),
        ("tool_choice", "required"),
        ("suffix", "a"),
        ("best_of", 2),
        ("audio", {}),
        ("functions", []),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_value_is_a_refusal_that_names_its_field(field: str, value: Any) -> None:
    assert refused(**{field: value}).param == field


def test_what_has_no_effect_is_accepted_and_has_none() -> None:
    books = {"user": "a", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    assert asked(service_tier="default") == asked()
    books |= {"safety_identifier": "a", "prompt_cache_key": "b", "modalities": ["text"]}
    assert asked(**books) == asked()


def test_another_model_s_name_is_not_found() -> None:
    error = refused(model="gpt-9")
    assert (error.status, error.param, error.code) == (404, "model", "model_not_found")


def test_each_of_n_answers_draws_by_a_seed_of_its_own_and_the_first_by_the_one_given() -> None:
    ask = asked(n=3, seed=2**63 - 1)
    assert [ask.params_of(choice).seed for choice in range(3)] == [2**63 - 1, 0, 1]
    assert asked(n=2).params_of(1).seed is None


# ---- messages ----


def call(name: str, arguments: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def told(*messages: Any) -> list[Any]:
    return list(asked(messages=list(messages)).messages)


def test_developer_is_system_and_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert told({"role": "developer", "content": parts}) == [{"role": "system", "content": "a\nb"}]


def test_arguments_of_calls_are_parsed_before_the_template_sees_them() -> None:
    calls = [call("add", '{"a": [1, {"b": null}]}', id="x", index=0), call("now", "")]
    message = {"role": "assistant", "content": None, "reasoning_content": "Sum.", "tool_calls": calls}
    first, second = told(message)[0]["tool_calls"]
    assert first["function"] == {"name": "add", "arguments": {"a": [1, {"b": None}]}}
    assert second["function"] == {"name": "now", "arguments": {}}
    assert told(message)[0]["reasoning_content"] == "Sum."
    assert told(message)[0]["content"] == ""


@pytest.mark.parametrize(
    "arguments",
    ["{", "[1]", "3", '{"a": NaN}', '{"a": "\\ud800"}', '{"a":' + "[" * 80 + "]" * 80 + "}"],
)
def test_arguments_that_are_no_object_of_json_are_refused_by_their_place(arguments: str) -> None:
    messages = [{"role": "assistant", "tool_calls": [call("add", arguments)]}]
    error = refused(messages=messages)
    assert error.param == "messages[0].tool_calls[0].function.arguments"
    assert "arguments" in error.message


def test_results_of_tools_are_told_in_the_order_of_their_calls() -> None:
    calls = {"role": "assistant", "tool_calls": [call("a", "{}", id="1"), call("b", "{}", id="2")]}
    second = {"role": "tool", "content": "of b", "tool_call_id": "2"}
    first = {"role": "tool", "content": "of a", "tool_call_id": "1"}
    user = {"role": "user", "content": "Hi"}
    for messages in ([calls, second, first], [calls, second, first, user]):
        assert [message["content"] for message in told(*messages)[1:3]] == ["of a", "of b"]
    assert told(calls, {"role": "tool", "content": "?"}, first)[1]["content"] == "of a"


def test_a_result_of_a_call_that_nobody_made_is_refused() -> None:
    error = refused(messages=[{"role": "tool", "content": "3", "tool_call_id": "x"}])
    assert error.param == "messages[0].tool_call_id"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant"}, "messages[0].content"),
        ({"role": "robot", "content": "a"}, "messages[0]"),
        ({"content": "a"}, "messages[0]"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": "a", "name": 3}, "messages[0].name"),
        ({"role": "assistant", "content": "a", "annotations": [{}]}, "messages[0].annotations"),
        ({"role": "assistant", "content": "a", "audio": {"id": "b"}}, "messages[0].audio"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "system", "content": []}, "messages[0].content"),
    ],
)
def test_a_wrong_message_is_named(message: Any, param: str) -> None:
    assert refused(messages=[message]).param == param


def test_what_the_client_adds_to_an_answer_is_taken_back_without_effect() -> None:
    called = call("add", "{}", id="1")
    parsed = {**called, "function": {**called["function"], "parsed_arguments": {"a": 1}}}
    nothing = {"refusal": None, "audio": None, "function_call": None, "annotations": []}
    plain = {"role": "assistant", "content": "Hi", "tool_calls": [called]}
    more = {**plain, "parsed": {"a": 1}, "name": "b", "tool_calls": [parsed], **nothing}
    assert told(more) == told(plain)


def test_a_message_may_have_a_name_which_no_template_shows() -> None:
    for role in ("system", "user", "assistant", "tool"):
        message = {"role": role, "content": "Hi"}
        assert told({**message, "name": "Ann"}) == told(message)


def test_a_refusal_names_the_field_that_was_sent() -> None:
    assert refused(max_completion_tokens=-1).message.startswith("max_completion_tokens is -1")
    assert refused(max_tokens=-1).message.startswith("max_tokens is -1")


def test_a_negative_seed_is_a_seed_of_its_own() -> None:
    assert asked(seed=-1).params.seed == 2**63 - 1
    assert asked(seed=-(2**63)).params.seed == 0


# ---- tools and forms ----


def test_tools_are_shown_without_what_is_no_business_of_the_template() -> None:
    (shown,) = asked(tools=TOOLS).tools
    assert shown == {"type": "function", "function": {k: v for k, v in ADD.items() if k != "strict"}}
    (bare,) = asked(tools=[{"type": "function", "function": {"name": "now"}}]).tools
    assert bare["function"] == {"name": "now"}


def test_tool_choice_decides_what_is_shown_and_what_must_come() -> None:
    named = {"type": "function", "function": {"name": "add"}}
    assert asked(tools=TOOLS, tool_choice="none").tools == ()
    assert asked(tools=TOOLS, tool_choice="auto").form == Form(kind="strict", names=("add",))
    assert asked(tools=TOOLS, tool_choice="required").form == Form(kind="tools")
    assert asked(tools=TOOLS, tool_choice=named).form == Form(kind="tools", names=("add",))
    assert asked(tool_choice="none") == asked()
    strict = Form(kind="strict", names=("add",))
    for mode, form in (("auto", strict), ("required", Form(kind="tools"))):
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}}
        other = {"type": "function", "function": {"name": "sub"}}
        ask = asked(tools=[other, *TOOLS], tool_choice=allowed)
        assert [tool["function"]["name"] for tool in ask.tools] == ["add"] and ask.form == form
        assert refused(tools=[other], tool_choice=allowed).param == "tool_choice"
    assert not asked(tools=TOOLS, parallel_tool_calls=False).parallel


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice"),
        ({"tools": TOOLS * 2}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search", "function": {"name": "a"}}]}, "tools[0].type"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"d": "x" * 70_000}}}]},
            "tools[0].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]},
            "tools",
        ),
        ({"response_format": {"type": "regex", "pattern": "a+"}}, "response_format"),
    ],
    ids=range(7),
)
def test_wrong_tools_are_refused(fields: dict[str, Any], param: str) -> None:
    assert refused(**{"tools": TOOLS, **fields}).param == param


def test_response_format_is_a_form() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SUM}}
    assert asked(response_format={"type": "text"}).form is None
    assert asked(response_format={"type": "json_object"}).form == Form(kind="json_object")
    assert asked(response_format=schema).form == Form(kind="json_schema", schema=SUM)
    assert asked(response_format={"type": "regex", "pattern": "a+"}).form == Form(kind="regex", pattern="a+")
    both = asked(tools=TOOLS, tool_choice="none", response_format={"type": "json_object"})
    assert both.form == Form(kind="json_object") and both.tools == ()


def test_beside_tools_a_format_waits_for_forced_calls_and_stands_beside_free_ones() -> None:
    wanted = {"response_format": {"type": "json_object"}}
    free = asked(tools=TOOLS, **wanted)
    assert (free.form, free.later) == (Form(kind="json_object"), None) and free.tools
    named = {"type": "function", "function": {"name": "add"}}
    for choice, names in (("required", None), (named, ("add",))):
        forced = asked(tools=TOOLS, tool_choice=choice, **wanted)
        assert (forced.form, forced.later) == (Form(kind="tools", names=names), Form(kind="json_object"))
    pattern = {"response_format": {"type": "regex", "pattern": "a+"}}
    assert asked(tools=TOOLS, tool_choice="required", **pattern).later == Form(kind="regex", pattern="a+")
    assert asked(tools=TOOLS, tool_choice="none", **pattern).form == Form(kind="regex", pattern="a+")


def test_top_logprobs_need_logprobs() -> None:
    for logprobs in ({}, {"logprobs": False}):
        assert refused(top_logprobs=1, **logprobs).param == "top_logprobs"
    assert asked(top_logprobs=1, logprobs=True).params.top_logprobs == 1


@pytest.mark.parametrize("field", ["top_logprobs", "min_tokens"])
def test_a_number_of_thousands_of_digits_is_not_repeated_whole(field: str) -> None:
    refusal = refused(**{"logprobs": True, "max_tokens": 5, field: 10**3999})
    assert refusal.param == field and "0...: it must be" in refusal.message and len(refusal.message) < 200


def test_the_description_and_the_strictness_of_a_schema_have_no_effect() -> None:
    told = [
        asked(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SUM, **more}})
        for more in ({}, {"strict": False}, {"strict": True}, {"description": "A sum."})
    ]
    assert all(one == told[0] for one in told)


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"x": "a" * 70_000}}},
            "response_format.json_schema.schema",
        ),
        ({"type": "regex", "pattern": "a" * 70_000}, "response_format.pattern"),
        ({"type": "regex", "pattern": ""}, "response_format.pattern"),
        ({"type": "xml"}, "response_format"),
        ({}, "response_format"),
    ],
    ids=range(6),
)
def test_a_wrong_response_format_is_refused(wanted: Any, param: str) -> None:
    assert refused(response_format=wanted).param == param


# ---- thinking ----


def test_each_way_to_ask_for_thinking_is_understood() -> None:
    assert asked(enable_thinking=True).thinking is True
    assert asked(chat_template_kwargs={"enable_thinking": False}).thinking is False
    assert asked(reasoning_effort="none").thinking is False
    for effort, tokens in EFFORTS.items():
        ask = asked(reasoning_effort=effort)
        assert (ask.thinking, ask.effort) == (True, tokens)
    for effort in ("xhigh", "max"):
        assert asked(reasoning_effort=effort).effort == EFFORTS["high"]
    assert asked(thinking_budget=7).params.thinking_budget == 7
    assert asked(thinking_budget=7).thinking is None


def test_what_decided_on_thinking_is_known_by_its_name() -> None:
    """A model that can't do as it is asked is told by the field that asked for it."""
    for fields, name in (
        ({"enable_thinking": True}, "enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs.enable_thinking"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"reasoning_effort": "none"}, "reasoning_effort"),
    ):
        assert asked(**fields, max_completion_tokens=9).names["thinking"] == name
    assert "thinking" not in asked(thinking_budget=7).names
    assert "thinking" not in asked(ServeConfig(thinking=True)).names


def test_a_server_may_have_a_way_of_its_own_that_a_request_overrides() -> None:
    quiet = ServeConfig(thinking=False)
    assert asked(quiet).thinking is False
    assert asked(quiet, enable_thinking=True).thinking is True
    assert asked(quiet, enable_thinking=True, thinking_budget=5).params.thinking_budget == 5
    assert refused(quiet, thinking_budget=5).param == "thinking_budget"


@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": False, "reasoning_effort": "low"},
        {"enable_thinking": False, "thinking_budget": 5},
        {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "none", "thinking_budget": 5},
        {"reasoning_effort": "low", "thinking_budget": 5},
    ],
)
def test_two_fields_that_disagree_about_thinking_are_refused(fields: dict[str, Any]) -> None:
    assert refused(**fields).param in fields | {"chat_template_kwargs.enable_thinking": None}


def test_a_template_s_own_variables_can_t_be_set() -> None:
    for name in ("messages", "add_generation_prompt", "tools", "chat_template"):
        assert refused(chat_template_kwargs={name: []}).param == f"chat_template_kwargs.{name}"


def test_streams_tell_the_usage_where_asked() -> None:
    assert asked(stream=True, stream_options={"include_usage": True}).usage
    assert not asked(stream=True).usage
    assert asked(stream=True, stream_options={}).stream
    assert asked(stream=True, stream_options={"include_obfuscation": False}) == asked(stream=True)
    assert json.dumps(asked(logprobs=True, top_logprobs=2).params.top_logprobs) == "2"
