"""OpenAI's own client against the server: what it sends is understood, what it gets it can read."""

import asyncio
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from running import PARIS, PLACE, SUM, Running

from pureqwen import Qwen
from pureqwen.chat import ChatTemplate
from pureqwen.config import ServeConfig
from pureqwen.serve.prepare import make_rows
from pureqwen.serve.protocol.body import read
from pureqwen.serve.protocol.chat import ChatRequest, chat_ask
from pureqwen.serve.protocol.refusal import Refusal

FUNCTION = {"name": "get_weather", "description": "The weather of a place", "parameters": PLACE}
WEATHER: Any = {"type": "function", "function": FUNCTION}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def client(served: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def answer(client: openai.OpenAI, messages: Any, **fields: Any) -> Any:
    fields = {"model": "pocket", "temperature": 0, **fields}
    return client.chat.completions.create(messages=messages, **fields)


def test_the_models_there_are(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pocket"]
    assert client.models.retrieve("pocket").owned_by == "pureqwen"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_a_question_is_thought_about_and_answered(client: openai.OpenAI, pocket: Qwen) -> None:
    told = answer(client, SUM)
    (choice,) = told.choices
    here = pocket.chat(SUM, temperature=0)
    assert (choice.message.content, choice.message.reasoning_content) == (here.content, here.reasoning)
    assert "7" in choice.message.content and choice.finish_reason == "stop"
    assert told.usage.completion_tokens == here.usage.completion_tokens
    assert told.usage.completion_tokens_details.reasoning_tokens == here.usage.reasoning_tokens
    assert told.model == "pocket" and told.id.startswith("chatcmpl-")


def joined(stream: Any) -> tuple[dict[str, str], list[Any]]:
    """(the deltas joined field by field, the chunks)."""
    texts, chunks = {"content": "", "reasoning_content": ""}, list(stream)
    for chunk in chunks:
        for choice in chunk.choices:
            for name in texts:
                texts[name] += getattr(choice.delta, name, None) or ""
    return texts, chunks


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1.0, "seed": 5}])
def test_a_stream_adds_up_to_the_answer_that_is_not_streamed(client: openai.OpenAI, fields: Any) -> None:
    whole = answer(client, SUM, **fields)
    texts, chunks = joined(answer(client, SUM, stream=True, stream_options={"include_usage": True}, **fields))
    message = whole.choices[0].message
    assert texts == {"content": message.content, "reasoning_content": message.reasoning_content}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 5


def test_the_client_s_own_way_to_collect_a_stream_gives_the_same(client: openai.OpenAI) -> None:
    whole = answer(client, SUM).choices[0].message.content
    with client.chat.completions.stream(model="pocket", messages=SUM, temperature=0) as stream:
        assert stream.get_final_completion().choices[0].message.content == whole
    with client.chat.completions.stream(
        model="pocket", messages=PARIS, tools=[WEATHER], temperature=0
    ) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
        assert call.function.arguments == '{"city": "Paris"}'


def test_many_clients_of_the_asynchronous_kind_get_each_its_own(served: Running, pocket: Qwen) -> None:
    sums = [[{"role": "user", "content": f"What is {n} + 4?"}] for n in range(1, 7)]

    async def ask() -> list[str]:
        url = f"{served.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def one(number: int) -> str:
                stream: Any = await client.chat.completions.create(
                    model="pocket", messages=sums[number], temperature=0, stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*map(one, range(6)))

    assert asyncio.run(ask()) == [pocket.chat(one, temperature=0).content for one in sums]


def test_thinking_is_turned_off_in_each_way(client: openai.OpenAI) -> None:
    for fields in (
        {"extra_body": {"enable_thinking": False}},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
        {"reasoning_effort": "none"},
    ):
        told = answer(client, SUM, **fields)
        assert not hasattr(told.choices[0].message, "reasoning_content")
        assert told.usage.completion_tokens_details.reasoning_tokens == 0


def test_a_budget_ends_the_thinking_and_an_answer_follows(client: openai.OpenAI) -> None:
    question = [{"role": "user", "content": "What is 347 * 86?"}]
    told = answer(client, question, extra_body={"thinking_budget": 5})
    assert 5 <= told.usage.completion_tokens_details.reasoning_tokens < 100
    assert told.choices[0].message.content
    assert answer(client, SUM, reasoning_effort="high").choices[0].message.reasoning_content


@pytest.mark.parametrize("room", [3, 30, 64])
def test_an_effort_fits_in_whatever_room_there_is(client: openai.OpenAI, room: int) -> None:
    question = [{"role": "user", "content": "What is 347 * 86?"}]
    told = answer(client, question, reasoning_effort="max", max_completion_tokens=room)
    assert told.usage.completion_tokens <= room
    assert room < 64 or told.choices[0].message.content


def test_max_tokens_ends_an_answer_and_says_so(client: openai.OpenAI) -> None:
    told = answer(client, SUM, max_completion_tokens=3)
    assert told.choices[0].finish_reason == "length" and told.usage.completion_tokens == 3


def test_a_stop_string_is_not_a_part_of_the_answer(client: openai.OpenAI) -> None:
    fields = {"extra_body": {"enable_thinking": False}}
    whole = answer(client, SUM, **fields).choices[0].message.content
    stop = whole[4:7]
    told = answer(client, SUM, stop=[stop, "never"], **fields).choices[0]
    assert told.message.content == whole[: whole.index(stop)] and told.finish_reason == "stop"
    texts, _ = joined(answer(client, SUM, stop=stop, stream=True, **fields))
    assert texts["content"] == told.message.content


def test_n_answers_share_a_prompt_and_each_draws_by_itself(client: openai.OpenAI) -> None:
    fields: Any = {
        "n": 3,
        "seed": 1,
        "temperature": 2.0,
        "max_tokens": 12,
        "extra_body": {"top_k": 0, "top_p": 1},
    }
    told = answer(client, SUM, **fields)
    texts = [(choice.message.content, choice.message.reasoning_content) for choice in told.choices]
    assert [choice.index for choice in told.choices] == [0, 1, 2] and len(set(texts)) > 1
    assert told.usage.completion_tokens > told.usage.prompt_tokens / 2
    again = answer(client, SUM, **fields)
    assert [(c.message.content, c.message.reasoning_content) for c in again.choices] == texts
    found: dict[int, str] = {0: "", 1: "", 2: ""}
    for chunk in answer(client, SUM, stream=True, **fields):
        for choice in chunk.choices:
            found[choice.index] += getattr(choice.delta, "reasoning_content", None) or ""
    assert list(found.values()) == [reasoning for _, reasoning in texts]


def test_log_probabilities_are_those_of_every_token(client: openai.OpenAI, pocket: Qwen) -> None:
    told = answer(client, SUM, logprobs=True, top_logprobs=2)
    here = pocket.chat(SUM, temperature=0, logprobs=True, top_logprobs=2)
    content = told.choices[0].logprobs.content
    assert [item.token for item in content] == [one.text for one in here.logprobs or ()]
    assert [item.logprob for item in content] == pytest.approx(
        [o.logprob for o in here.logprobs or ()], abs=1e-2
    )
    assert all(len(item.top_logprobs) == 2 for item in content)
    stream = answer(client, SUM, logprobs=True, top_logprobs=2, stream=True)
    items = [i for c in stream for choice in c.choices if choice.logprobs for i in choice.logprobs.content]
    assert [item.token for item in items] == [item.token for item in content]
    assert bytes(b for item in items for b in item.bytes).decode().count("3 + 4 = 7") == 1


def test_logit_bias_makes_a_token_come(client: openai.OpenAI, pocket: Qwen) -> None:
    assert pocket.tokenizer is not None
    [bang] = pocket.tokenizer.encode("!")
    told = answer(client, SUM, logit_bias={str(bang): 100}, max_tokens=3)
    assert told.choices[0].message.content == "!!!"


# ---- tools ----


def test_a_tool_is_called_and_its_result_used(client: openai.OpenAI) -> None:
    told = answer(client, PARIS, tools=[WEATHER]).choices[0]
    (call,) = told.message.tool_calls
    assert told.finish_reason == "tool_calls"
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Paris"}')
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear", "degrees": 21}'}
    after = answer(client, [*PARIS, told.message, result], tools=[WEATHER]).choices[0].message
    assert "21" in after.content and not after.tool_calls


def streamed_calls(stream: Any) -> list[list[str]]:
    calls: dict[int, list[str]] = {}
    for chunk in stream:
        for delta in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
            call = calls.setdefault(delta.index, ["", ""])
            call[0] += delta.function.name or ""
            call[1] += delta.function.arguments or ""
    return list(calls.values())


NAMED = {"type": "function", "function": {"name": "clock"}}


@pytest.mark.parametrize(
    "choice", ["none", "auto", "required", NAMED], ids=["none", "auto", "required", "named"]
)
@pytest.mark.parametrize("question", [PARIS, SUM], ids=["paris", "sum"])
def test_tool_choice_is_obeyed_and_the_deltas_join(client: openai.OpenAI, choice: Any, question: Any) -> None:
    fields = {"tools": [WEATHER, CLOCK], "tool_choice": choice, "max_tokens": 300}
    told = answer(client, question, **fields).choices[0]
    calls = [[call.function.name, call.function.arguments] for call in told.message.tool_calls or ()]
    if choice == "none":
        assert not calls and told.finish_reason != "tool_calls"
    elif choice != "auto" or question is PARIS:
        assert calls and told.finish_reason == "tool_calls"
        assert {name for name, _ in calls} <= ({"clock"} if choice is NAMED else {"get_weather", "clock"})
    assert streamed_calls(answer(client, question, stream=True, **fields)) == calls


def test_no_more_than_one_call_comes_where_one_is_wanted(client: openai.OpenAI) -> None:
    fields = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "parallel_tool_calls": False}
    told = answer(client, PARIS, **fields).choices[0]
    assert len(told.message.tool_calls) == 1 and told.finish_reason == "tool_calls"
    assert len(streamed_calls(answer(client, PARIS, stream=True, **fields))) == 1


# ---- forms ----


class Person(BaseModel):
    name: str
    age: int
    city: str


class City(BaseModel):
    city: str


OWN_WARNING = (
    "ignore:Pydantic serializer warnings"  # the client's, of what it has put into the message itself
)


@pytest.mark.filterwarnings(OWN_WARNING)
def test_the_client_parses_a_structured_answer(client: openai.OpenAI) -> None:
    question: Any = [
        {"role": "user", "content": "Write that as JSON: Ann is 31 years old and lives in Rome."}
    ]
    told = client.chat.completions.parse(
        model="pocket", messages=question, response_format=Person, temperature=0
    )
    assert told.choices[0].message.parsed == Person(name="Ann", age=31, city="Rome")
    assert told.choices[0].message.reasoning_content  # type: ignore[attr-defined]
    turns: Any = [*question, told.choices[0].message, *SUM]
    assert answer(client, turns, max_tokens=5).choices[0].message.role == "assistant"


@pytest.mark.filterwarnings(OWN_WARNING)
def test_a_parsed_call_can_be_sent_back_with_its_result(client: openai.OpenAI) -> None:
    strict: Any = openai.pydantic_function_tool(City, name="get_weather")
    told = client.chat.completions.parse(
        model="pocket", messages=PARIS, tools=[strict], tool_choice="required", temperature=0
    )
    message = told.choices[0].message
    assert message.tool_calls is not None and message.tool_calls[0].function.parsed_arguments is not None
    result = {
        "role": "tool",
        "tool_call_id": message.tool_calls[0].id,
        "content": '{"degrees": 21}',
        "name": "w",
    }
    assert answer(client, [*PARIS, message, result], tools=[strict]).choices[0].message.content


def test_the_other_forms_hold_too(client: openai.OpenAI) -> None:
    fields: Any = {"extra_body": {"response_format": {"type": "regex", "pattern": "(yes|no)!{3}"}}}
    assert answer(client, SUM, **fields).choices[0].message.content in ("yes!!!", "no!!!")
    told = answer(client, SUM, response_format={"type": "json_object"}, max_tokens=60).choices[0].message
    assert told.content.lstrip().startswith("{")


# ---- /v1/completions ----


def test_a_text_is_continued(client: openai.OpenAI, pocket: Qwen) -> None:
    told = client.completions.create(model="pocket", prompt="What is", temperature=0)
    here = pocket.generate("What is", temperature=0, max_tokens=16)
    assert told.choices[0].text == here.text and told.usage is not None
    assert told.usage.completion_tokens == here.usage.completion_tokens
    stream = client.completions.create(model="pocket", prompt="What is", temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == here.text


def test_several_prompts_of_ids_have_n_answers_each(client: openai.OpenAI) -> None:
    ids = [[5, 6, 7], [8, 9, 10]]
    told = client.completions.create(model="pocket", prompt=ids, n=2, max_tokens=2, temperature=0)
    assert [choice.index for choice in told.choices] == [0, 1, 2, 3] and told.usage is not None
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (6, 8)
    assert told.choices[0].text == told.choices[1].text


def test_an_echo_scores_its_prompt_as_the_model_does(client: openai.OpenAI, pocket: Qwen) -> None:
    text = "What is 3 + 4?"
    fields: Any = {"model": "pocket", "prompt": text, "echo": True, "logprobs": 2, "temperature": 0}
    told = client.completions.create(max_tokens=3, **fields).choices[0]
    logprobs: Any = told.logprobs
    assert told.text.startswith(text) and "".join(logprobs.tokens) == told.text
    assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert [
        told.text[o : o + len(t)] for o, t in zip(logprobs.text_offset, logprobs.tokens, strict=True)
    ] == (logprobs.tokens)
    alone = client.completions.create(max_tokens=0, **fields).choices[0]
    assert alone.text == text and alone.logprobs is not None
    count = len(alone.logprobs.tokens or ())
    assert alone.logprobs.token_logprobs == logprobs.token_logprobs[:count]
    here = pocket.intake.text(text, pocket.defaults.__class__(temperature=0, max_tokens=1), prompt_logprobs=0)
    assert count == here.num_prompt
    stream = list(client.completions.create(max_tokens=3, stream=True, **fields))
    assert "".join(chunk.choices[0].text for chunk in stream) == told.text


# ---- mistakes ----


@pytest.mark.parametrize(
    ("name", "fields", "param"),
    [
        ("instruct_2507", {"reasoning_effort": "low"}, "reasoning_effort"),
        ("instruct_2507", {"enable_thinking": True}, "enable_thinking"),
        (
            "instruct_2507",
            {"chat_template_kwargs": {"enable_thinking": True}},
            "chat_template_kwargs.enable_thinking",
        ),
        ("thinking_2507", {"reasoning_effort": "none"}, "reasoning_effort"),
    ],
)
def test_a_model_that_can_t_think_as_asked_says_so_by_the_field_that_was_sent(
    pocket: Qwen, chat_template_source: Any, name: str, fields: Any, param: str
) -> None:
    """It named "thinking", which such a request does not have."""
    intake = dataclasses.replace(pocket.intake, template=ChatTemplate(chat_template_source(name)))
    request, _ = read(ChatRequest, {"model": "pocket", "messages": SUM, "max_tokens": 9, **fields})
    with pytest.raises(Refusal, match=rf"^{re.escape(param)}: thinking=") as caught:
        make_rows(chat_ask(request, ServeConfig()), intake, None)
    assert caught.value.param == param and "leave thinking unset" in caught.value.message


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"extra_body": {"best_of": 3}}, openai.BadRequestError, "best_of"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"model": "gpt-9"}, openai.NotFoundError, "model"),
    ],
    ids=["value", "unknown", "messages", "model"],
)
def test_a_mistake_is_the_client_s_own_exception(client: Any, fields: Any, kind: Any, param: str) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "pocket", "messages": SUM, **fields})
    assert caught.value.param == param and caught.value.request_id
    assert caught.value.type == "invalid_request_error"
