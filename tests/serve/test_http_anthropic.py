"""Anthropic's own client against the server."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from running import PARIS, PLACE, SUM, Running, running

from pureqwen import Qwen
from pureqwen.config import ServeConfig
from pureqwen.serve.engine import Engine

THINK: Any = {"type": "adaptive"}
WEATHER: Any = {"name": "get_weather", "description": "The weather of a place", "input_schema": PLACE}
CLOCK: Any = {"name": "clock", "input_schema": {"type": "object"}}


@pytest.fixture(scope="module")
def client(served: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as found:
        yield found


def answer(client: anthropic.Anthropic, messages: Any, **fields: Any) -> Any:
    """Greedy: the client has no name for the temperature any more, the protocol has."""
    fields = {"model": "pocket", "max_tokens": 300, "extra_body": {"temperature": 0}, **fields}
    return client.messages.create(messages=messages, **fields)


def test_a_message_is_thought_about_and_answered(client: anthropic.Anthropic, pocket: Qwen) -> None:
    told = answer(client, SUM, thinking={"type": "adaptive"})
    here = pocket.chat(SUM, temperature=0)
    thought, text = told.content
    assert (thought.type, thought.thinking) == ("thinking", here.reasoning)
    assert (text.type, text.text) == ("text", here.content)
    assert (told.stop_reason, told.stop_sequence) == ("end_turn", None)
    assert told.usage.input_tokens + told.usage.cache_read_input_tokens == here.usage.prompt_tokens
    assert told.usage.output_tokens == here.usage.completion_tokens


def test_a_stream_adds_up_to_the_message_that_is_not_streamed(client: anthropic.Anthropic) -> None:
    for messages, fields in ((SUM, {"thinking": THINK}), (PARIS, {"tools": [WEATHER]})):
        asked: Any = {"model": "pocket", "extra_body": {"temperature": 0}, "max_tokens": 300, **fields}
        with client.messages.stream(messages=messages, **asked) as stream:
            told = stream.get_final_message()
        whole = answer(client, messages, **fields)
        drop = {"id": True, "content": {"__all__": {"id"}}, "usage": True}
        assert told.model_dump(exclude=drop, exclude_none=True) == whole.model_dump(
            exclude=drop, exclude_none=True
        )
        assert told.usage.output_tokens == whole.usage.output_tokens


def test_the_events_come_in_anthropic_s_order(client: anthropic.Anthropic) -> None:
    events = [event.type for event in answer(client, SUM, stream=True, thinking=THINK)]
    assert events[0] == "message_start" and events[-2:] == ["message_delta", "message_stop"]
    assert events.count("content_block_start") == events.count("content_block_stop") == 2
    assert events.count("content_block_delta") > 2  # a busy machine sends several tokens at once


def test_thinking_is_turned_off_and_limited(client: anthropic.Anthropic) -> None:
    (block,) = answer(client, SUM, thinking={"type": "disabled"}).content
    assert block.type == "text" and block.text.startswith("3 + 4 = ")
    question = [{"role": "user", "content": "What is 347 * 86?"}]
    limited = answer(client, question, thinking={"type": "enabled", "budget_tokens": 5}).content
    assert [block.type for block in limited] == ["thinking", "text"]
    assert len(limited[0].thinking) < len(answer(client, question, thinking=THINK).content[0].thinking)


def test_who_says_nothing_of_thinking_gets_no_thought(client: anthropic.Anthropic) -> None:
    (block,) = answer(client, SUM).content
    assert block.type == "text" and block.text.startswith("3 + 4 = ")


def test_an_effort_alone_is_no_thought_and_beside_a_budget_a_limit(client: anthropic.Anthropic) -> None:
    effort: Any = {"effort": "low"}
    assert [block.type for block in answer(client, SUM, output_config=effort).content] == ["text"]
    enabled: Any = {"type": "enabled", "budget_tokens": 2000}
    told = answer(client, SUM, output_config=effort, thinking=enabled, max_tokens=3000).content
    assert [block.type for block in told] == ["thinking", "text"]


# What Claude Code sends beside what there is here, by bug reports of its users.
CODE: Any = {
    "model": "pocket",
    "max_tokens": 300,
    "temperature": 0,
    "stream": False,
    "system": [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "scope": "global"}},
        {"type": "text", "text": "You have tools.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "What is the weather in Paris?"}]}],
    "tools": [
        {**WEATHER, "eager_input_streaming": True},
        {"name": "mcp__a_server_with_a_long_name__" + "a" * 60, "input_schema": {"type": "object"}},
    ],
    "tool_choice": {"type": "tool", "name": "get_weather"},
    "metadata": {"user_id": "user_1"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "thinking": {"type": "disabled"},
}


def test_what_claude_code_sends_is_answered_by_a_lenient_server_and_named(
    served: Running, pocket: Qwen
) -> None:
    path = "/v1/messages?beta=true"
    status, _, told = served.ask(path, CODE)
    assert status == 400 and "is not supported here" in told["error"]["message"]
    with running(Engine(pocket), pocket, ServeConfig(lenient=True)) as server:
        status, headers, told = server.ask(path, CODE, anthropic_beta="context-management-2025-06-27")
    assert status == 200 and told["stop_reason"] == "tool_use"
    assert [block["input"] for block in told["content"]] == [{"city": "Paris"}]
    ignored = {"context_management", "system[0].cache_control.scope", "tools[0].eager_input_streaming"}
    assert {name.strip() for name in headers["x-ignored-fields"].split(",")} == ignored


@pytest.mark.parametrize("budget", [255, 256, 10_000])
def test_a_budget_is_an_upper_bound_and_the_answer_has_its_place(client: Any, budget: int) -> None:
    question = [{"role": "user", "content": "What is 347 * 86?"}]
    told = answer(client, question, max_tokens=256, thinking={"type": "enabled", "budget_tokens": budget})
    assert [block.type for block in told.content] == ["thinking", "text"]


def test_a_budget_whose_end_has_no_place_is_refused_by_its_name(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"thinking\.budget_tokens is 2"):
        answer(client, SUM, max_tokens=5, thinking={"type": "enabled", "budget_tokens": 2})


def test_an_answer_that_was_cut_can_be_sent_back(client: anthropic.Anthropic) -> None:
    cut = answer(client, SUM, max_tokens=3, thinking=THINK)
    assert [block.type for block in cut.content] in ([], ["thinking"])
    turns = [*SUM, {"role": "assistant", "content": cut.content}, *SUM]
    assert answer(client, turns).stop_reason == "end_turn"


def test_a_tool_is_called_and_its_result_used(client: anthropic.Anthropic) -> None:
    told = answer(client, PARIS, tools=[WEATHER])
    call = told.content[-1]
    assert told.stop_reason == "tool_use" and (call.name, call.input) == ("get_weather", {"city": "Paris"})
    content = '{"sky": "clear", "degrees": 21}'
    result = {"type": "tool_result", "tool_use_id": call.id, "content": content}
    turns = [*PARIS, {"role": "assistant", "content": told.content}, {"role": "user", "content": [result]}]
    after = answer(client, turns, tools=[WEATHER])
    assert after.stop_reason == "end_turn" and "21" in after.content[-1].text


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "none"}, set()),
        ({"type": "any"}, {"get_weather", "clock"}),
        ({"type": "tool", "name": "clock"}, {"clock"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"get_weather", "clock"}),
    ],
    ids=["none", "any", "tool", "one"],
)
def test_tool_choice_is_obeyed(client: anthropic.Anthropic, choice: Any, names: set[str]) -> None:
    told = answer(client, PARIS, tools=[WEATHER, CLOCK], tool_choice=choice)
    called = [block.name for block in told.content if block.type == "tool_use"]
    assert bool(called) == bool(names) and set(called) <= names
    assert told.stop_reason == ("tool_use" if names else "end_turn")
    assert len(called) == 1 or "disable_parallel_tool_use" not in choice


def test_an_answer_of_a_schema_is_one(client: anthropic.Anthropic) -> None:
    question = [{"role": "user", "content": "Write that as JSON: Ann is 31 years old and lives in Rome."}]
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["name", "age", "city"]}
    schema["additionalProperties"] = False
    form = {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    told = answer(client, question, output_config=form, thinking=THINK)
    assert json.loads(told.content[-1].text) == {"name": "Ann", "age": 31, "city": "Rome"}
    assert told.content[0].type == "thinking"


def test_the_client_s_tool_runner_gets_along_without_threads(served: Running) -> None:
    """It offers a thread first, and sends the whole conversation once it hears that there are none."""

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather of a place.

        Args:
            city: the place
        """
        return json.dumps({"city": city, "weather": "sunny", "temperature": 20})

    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as client:
        runner = client.beta.messages.tool_runner(
            model="pocket", max_tokens=400, tools=[get_weather], messages=PARIS, tool_choice={"type": "auto"}
        )
        turns = list(runner)
    assert [turn.stop_reason for turn in turns] == ["tool_use", "end_turn"]
    status, _, told = served.ask(
        "/v1/messages",
        {"model": "pocket", "max_tokens": 9, "messages": SUM, "thread": {"type": "create"}},
    )
    assert status == 400 and told["error"]["details"]["error_code"] == "thread_unsupported_request"


def test_the_stop_sequence_that_ended_the_answer_is_named(client: anthropic.Anthropic) -> None:
    for thinking in ({"type": "disabled"}, {"type": "adaptive"}):
        told = answer(client, SUM, stop_sequences=["never", " ="], thinking=thinking)
        assert (told.stop_reason, told.stop_sequence) == ("stop_sequence", " =")
        assert told.content[-1].text == "3 + 4"


def test_the_tokens_of_a_conversation_are_counted(client: anthropic.Anthropic, pocket: Qwen) -> None:
    count = client.messages.count_tokens(model="pocket", messages=SUM, tools=[WEATHER], system="Be brief.")
    told = answer(client, SUM, tools=[WEATHER], system="Be brief.", max_tokens=1).usage
    assert count.input_tokens == told.input_tokens + told.cache_read_input_tokens


def test_the_asynchronous_client_streams_too(served: Running) -> None:
    async def ask() -> str:
        url = served.url
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            asked: Any = {"model": "pocket", "max_tokens": 300, "extra_body": {"temperature": 0}}
            async with client.messages.stream(messages=SUM, **asked) as stream:
                return "".join([text async for text in stream.text_stream])

    assert asyncio.run(ask()).startswith("3 + 4 = ")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"max_tokens": -1}, anthropic.BadRequestError),
        ({"model": "claude"}, anthropic.NotFoundError),
        ({"container": "a"}, anthropic.BadRequestError),
    ],
    ids=["value", "model", "unknown"],
)
def test_a_mistake_is_the_client_s_own_exception(client: Any, fields: Any, kind: Any) -> None:
    with pytest.raises(kind) as caught:
        answer(client, SUM, **fields)
    error = caught.value.body
    assert error["type"] == "error" and error["request_id"] == caught.value.request_id
    assert next(iter(fields)).partition("_")[0] in error["error"]["message"]
