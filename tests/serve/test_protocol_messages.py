"""/v1/messages to what the engine is asked for."""

from typing import Any

import pytest

from pureqwen.config import ServeConfig
from pureqwen.config.serving import EFFORTS
from pureqwen.serve.protocol.ask import Ask, Form
from pureqwen.serve.protocol.body import read
from pureqwen.serve.protocol.messages import CountRequest, MessagesRequest, messages_ask
from pureqwen.serve.protocol.refusal import Refusal

TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
BARE = {"name": "now", "input_schema": {"type": "object"}}
FORMAT = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
LARGE = {"format": {"type": "json_schema", "schema": {"a": "x" * 70_000}}}
HELLO = {"role": "user", "content": "Hi"}
SINGLE = {"type": "auto", "disable_parallel_tool_use": False}


def asked(config: ServeConfig | None = None, **fields: Any) -> Ask:
    body = {"model": "pocket", "max_tokens": 9, "messages": [HELLO], **fields}
    return messages_ask(read(MessagesRequest, body)[0], config or ServeConfig())


def refused(config: ServeConfig | None = None, **fields: Any) -> str | None:
    with pytest.raises(Refusal) as caught:
        asked(config, **fields)
    assert caught.value.status == 400
    return caught.value.param


def test_the_fields_of_sampling_are_understood() -> None:
    ask = asked(temperature=0, top_p=0.5, top_k=3, stop_sequences=["a"], stream=True)
    assert ask.params.max_tokens == 9 and ask.params.stop == ("a",) and ask.stream
    assert (ask.params.temperature, ask.params.top_p, ask.params.top_k) == (0, 0.5, 3)


def test_what_has_no_effect_is_accepted_and_has_none() -> None:
    assert asked(metadata={"user_id": "a"}, service_tier="auto") == asked()
    assert asked(service_tier="standard_only") == asked()
    block = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert asked(messages=[{"role": "user", "content": [block]}]) == asked()


def test_a_conversation_with_a_tool_becomes_the_template_s_messages() -> None:
    thought = {"type": "thinking", "thinking": "Sum.", "signature": ""}
    use = {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "3"}]}
    more = [{**use, "id": "2"}, {**use, "id": "3"}]
    failed = {"type": "tool_result", "tool_use_id": "2", "content": "no", "is_error": True}
    empty = {"type": "tool_result", "tool_use_id": "3"}
    text = {"type": "text", "text": "And?"}
    ask = asked(
        system=[{"type": "text", "text": "Be brief."}],
        messages=[
            HELLO,
            {"role": "assistant", "content": [thought, {"type": "text", "text": "Well."}, use, *more]},
            {"role": "user", "content": [text, empty, result, failed]},
            {"role": "assistant", "content": "3"},
            HELLO,
        ],
    )
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}] * 3
    assert list(ask.messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Well.", "reasoning_content": "Sum.", "tool_calls": calls},
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "Error: no"},
        {"role": "tool", "content": ""},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "Hi"},
    ]


def test_a_result_of_a_call_that_the_message_before_did_not_make_is_refused() -> None:
    use = {"type": "tool_use", "id": "1", "name": "add", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "2", "content": "3"}
    calls = {"role": "assistant", "content": [use]}
    turns = [HELLO, calls, {"role": "user", "content": [result]}]
    assert refused(messages=turns) == "messages[2].content[0].tool_use_id"
    late = {"role": "user", "content": [{**result, "tool_use_id": "1"}]}
    turns = [HELLO, calls, late, {"role": "assistant", "content": "3"}, late]
    assert refused(messages=turns) == "messages[4].content[0].tool_use_id"


def test_an_answer_that_was_cut_before_it_began_can_be_sent_back() -> None:
    thought = {"type": "thinking", "thinking": "Sum.", "signature": ""}
    for content, more in (([], {}), ([thought], {"reasoning_content": "Sum."})):
        ask = asked(messages=[HELLO, {"role": "assistant", "content": content}, HELLO])
        assert ask.messages[1] == {"role": "assistant", "content": "", **more}


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"stop_sequences": [""]}, "stop_sequences[0]"), ({"max_tokens": -1}, "max_tokens")],
    ids=["stop", "max"],
)
def test_a_refusal_names_the_field_that_was_sent(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(Refusal) as caught:
        asked(**fields)
    assert caught.value.message.startswith(name)


def test_tools_and_their_choice_decide_what_is_shown_and_what_must_come() -> None:
    ask = asked(tools=[TOOL, BARE])
    assert [tool["function"] for tool in ask.tools] == [
        {"name": "add", "description": "Adds.", "parameters": {"type": "object"}},
        {"name": "now", "parameters": {"type": "object"}},
    ]
    assert ask.form is None and ask.parallel
    assert asked(tools=[TOOL], tool_choice={"type": "any"}).form == Form(kind="tools")
    named = asked(tools=[TOOL], tool_choice={"type": "tool", "name": "add"})
    assert named.form == Form(kind="tools", names=("add",))
    assert asked(tools=[TOOL], tool_choice={"type": "none"}).tools == ()
    single = {"type": "auto", "disable_parallel_tool_use": True}
    assert not asked(tools=[TOOL], tool_choice=single).parallel


def test_there_is_no_thinking_unless_it_is_asked_for() -> None:
    assert (asked().thinking, asked().quiet) == (None, True)
    assert (asked(ServeConfig(thinking=True)).thinking, asked(ServeConfig(thinking=True)).quiet) == (
        True,
        False,
    )
    assert asked(ServeConfig(thinking=False)).thinking is False
    assert not asked(thinking={"type": "adaptive"}).quiet
    enabled = asked(thinking={"type": "enabled", "budget_tokens": 5})
    assert (enabled.thinking, enabled.params.thinking_budget) == (True, 5)
    assert asked(thinking={"type": "disabled"}).thinking is False
    assert asked(thinking={"type": "adaptive"}).thinking is None


def test_an_effort_is_a_limit_of_thinking_and_a_format_a_form() -> None:
    ask = asked(output_config={**FORMAT, "effort": "low"}, thinking={"type": "adaptive"})
    assert (ask.thinking, ask.effort) == (True, EFFORTS["low"])
    assert ask.form == Form(kind="json_schema", schema={"type": "object"})
    for effort in ("xhigh", "max"):
        wanted = asked(output_config={"effort": effort}, thinking={"type": "adaptive"})
        assert wanted.effort == EFFORTS["high"]


def test_an_effort_alone_asks_for_no_thinking() -> None:
    """It turned the thinking on, which it does not at Anthropic's."""
    for off in ({}, {"thinking": {"type": "disabled"}}):
        ask, plain = asked(output_config={"effort": "low"}, **off), asked(**off)
        assert (ask.thinking, ask.quiet, ask.effort) == (plain.thinking, plain.quiet, None)
    loud = asked(ServeConfig(thinking=True), output_config={"effort": "low"})
    assert (loud.thinking, loud.quiet, loud.effort) == (True, False, EFFORTS["low"])


@pytest.mark.parametrize(
    ("effort", "budget", "expected"),
    [("low", 2000, (EFFORTS["low"], None)), ("low", 100, (None, 100)), ("high", 2000, (None, 2000))],
)
def test_beside_a_budget_an_effort_counts_where_it_is_less(effort: str, budget: int, expected: Any) -> None:
    enabled = {"type": "enabled", "budget_tokens": budget}
    ask = asked(output_config={"effort": effort}, thinking=enabled)
    assert ask.thinking and (ask.effort, ask.params.thinking_budget) == expected


def test_what_decided_on_thinking_is_known_by_its_name() -> None:
    adaptive = {"type": "adaptive"}
    assert (
        asked(output_config={"effort": "low"}, thinking=adaptive).names["thinking"] == "output_config.effort"
    )
    assert asked(thinking=adaptive).names["thinking"] == asked().names["thinking"] == "thinking"


def test_names_of_tools_are_as_long_as_those_of_tools_from_afar() -> None:
    """Clients put the server's name in front: "mcp__github__create_pull_request_review"."""
    name = "mcp__" + "a" * 123
    assert asked(tools=[{**TOOL, "name": name}]).tools[0]["function"]["name"] == name
    for wrong in (name + "a", "a b", "", "a<b"):
        assert refused(tools=[{**TOOL, "name": wrong}]) == "tools[0].name"


def test_strict_tools_are_told_apart_wherever_a_call_may_come() -> None:
    tools = [{**TOOL, "strict": True}, {**BARE, "strict": False}]
    for choice in ({"type": "any"}, {"type": "tool", "name": "now"}, {"type": "auto"}):
        assert asked(tools=tools, tool_choice=choice).strict == ("add",)
    assert asked(tools=tools, tool_choice={"type": "none"}).strict == ()


def test_beside_tools_a_format_waits_for_forced_calls_and_stands_beside_free_ones() -> None:
    wanted = Form(kind="json_schema", schema={"type": "object"})
    for choice in ({}, {"tool_choice": {"type": "auto"}}):
        free = asked(output_config=FORMAT, tools=[TOOL], **choice)
        assert (free.form, free.later) == (wanted, None) and free.tools
    forced = asked(output_config=FORMAT, tools=[TOOL], tool_choice={"type": "any"})
    assert (forced.form, forced.later) == (Form(kind="tools"), wanted)
    none = asked(output_config=FORMAT, tools=[TOOL], tool_choice={"type": "none"})
    assert (none.form, none.tools) == (wanted, ())
    assert refused(output_config=LARGE, tools=[TOOL]) == "output_config.format.schema"


def test_strict_tools_are_held_to_their_schemas_where_they_may_be_called() -> None:
    assert asked(tools=[{**TOOL, "strict": True}, BARE]).form == Form(kind="strict", names=("add",))
    assert asked(tools=[{**TOOL, "strict": False}, {**BARE, "strict": False}]).form is None


def test_thoughts_are_hidden_where_they_shall_be_omitted() -> None:
    assert asked(thinking={"type": "adaptive", "display": "omitted"}).hidden
    assert not asked(thinking={"type": "adaptive", "display": "summarized"}).hidden


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "disabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": -5}}, "thinking.budget_tokens"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{**BARE, "input_schema": {"a": "x" * 70_000}}]}, "tools[0].input_schema"),
        ({"tools": [{"type": "web_search_20250305", "name": "web"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "auto", "name": "add"}}, "tool_choice.name"),
        ({"messages": []}, "messages"),
        ({"messages": [HELLO, {"role": "assistant", "content": "So"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"container": "a"}, "container"),
        ({"output_config": {"effort": "most"}}, "output_config.effort"),
        ({"tools": [TOOL, {**BARE, "input_schema": {"type": "array"}}]}, "tools[1].input_schema.type"),
        ({"tools": [{**BARE, "input_schema": {"type": None}}]}, "tools[0].input_schema.type"),
        ({"tool_choice": SINGLE}, "tool_choice.disable_parallel_tool_use"),
        (
            {"tools": [TOOL], "tool_choice": {**SINGLE, "type": "none"}},
            "tool_choice.disable_parallel_tool_use",
        ),
        ({"output_config": LARGE}, "output_config.format.schema"),
    ],
    ids=range(27),
)
def test_what_is_wrong_or_unsupported_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == param


def test_counting_needs_no_max_tokens_and_takes_no_options_of_an_answer() -> None:
    body = {"model": "pocket", "messages": [HELLO], "system": "Hi", "tools": [TOOL]}
    ask = messages_ask(read(CountRequest, body)[0], ServeConfig())
    assert ask.params.max_tokens is None and len(ask.messages) == 2
    with pytest.raises(Refusal, match="max_tokens"):
        read(CountRequest, {**body, "max_tokens": 3})
