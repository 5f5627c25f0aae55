"""What clients are told: a stream adds up to the answer in one piece, in each protocol."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest

from pureqwen.chat import Content, Event, Finish, Reasoning, Recast, ToolCall, ToolCallDelta
from pureqwen.config import ServeConfig
from pureqwen.generate.result import Logprob, Result, Timings, Usage
from pureqwen.serve.protocol.answer import Opening, Piece, Writer, sent
from pureqwen.serve.protocol.body import read
from pureqwen.serve.protocol.chat import ChatRequest, chat_ask
from pureqwen.serve.protocol.chat_answer import ChatAnswer
from pureqwen.serve.protocol.completion_answer import CompletionAnswer
from pureqwen.serve.protocol.completions import CompletionRequest, completion_ask
from pureqwen.serve.protocol.messages import MessagesRequest, messages_ask
from pureqwen.serve.protocol.messages_answer import MessagesAnswer
from pureqwen.serve.protocol.refusal import crashed

TEXTS = ("<think>", "Sum.", "</think>", "It is ", "3", ".", " END", "<|im_end|>", "A")
HELLO = [{"role": "user", "content": "Hi"}]
CALL = ToolCall("add", {"a": 1, "b": "é"})


def logprob(id: int, value: float = -0.5) -> Logprob:
    return Logprob(
        token_id=id, text=TEXTS[id], logprob=value, top=((id, TEXTS[id], value), (3, "It is ", -9))
    )


def result(**fields: Any) -> Result:
    usage = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3, reasoning_tokens=2)
    timings = Timings(time_to_first_token=0.1, decode_seconds=0.1, prompt_tokens=4, decode_tokens=4)
    known = {"text": "It is 3.", "reasoning": None, "content": "It is 3.", "token_ids": [3, 4, 5]}
    known |= {"finish_reason": "stop", "logprobs": None, "usage": usage, "timings": timings, "seed": 1}
    return Result(**{**known, **fields})


def opening(rows: int = 1) -> Opening:
    return Opening(
        id="x-1" if rows else "",
        model="pocket",
        created=5,
        texts=["Add"] * rows,
        firsts=[8] * rows,
        counts=[7] * rows,
        ends={7},
        bytes_of=lambda id: TEXTS[id].encode(),
    )


def streamed(writer: Writer, pieces: Sequence[Piece], results: Sequence[Result]) -> list[Any]:
    """The JSON of the events; [DONE] is None."""
    text = writer.begin() + "".join(writer.piece(piece) for piece in pieces) + writer.end(results)
    datas = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [None if data == "[DONE]" else json.loads(data) for data in datas]


def chat(**fields: Any) -> ChatAnswer:
    body = {"model": "pocket", "messages": HELLO, **fields}
    ask = chat_ask(read(ChatRequest, body)[0], ServeConfig())
    return ChatAnswer(ask, opening(ask.rows))


def deltas(events: Sequence[Event], **fields: Any) -> list[Any]:
    told = streamed(chat(stream=True, **fields), [Piece(index=0, events=events, result=result())], [result()])
    return [chunk["choices"][0]["delta"] for chunk in told if chunk and chunk["choices"]]


def test_a_chat_s_chunks_open_with_the_role_and_end_with_the_reason_and_done() -> None:
    told = streamed(chat(stream=True), [Piece(index=0, events=[Content("3")], result=result())], [result()])
    assert [chunk and chunk["choices"][0]["delta"] for chunk in told] == [
        {"role": "assistant", "content": ""},
        {"content": "3"},
        {},
        None,
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in told[:-1]] == [None, None, "stop"]
    assert "usage" not in told[0]


def test_reasoning_is_apart_from_content_and_a_late_thought_comes_once_more() -> None:
    events = [Reasoning("Sum"), Reasoning("."), Content("3"), Recast("3"), Finish("stop")]
    assert deltas(events)[1:-1] == [
        {"reasoning_content": "Sum"},
        {"reasoning_content": "."},
        {"content": "3"},
        {"reasoning_content": "3"},
    ]


def test_the_deltas_of_a_call_join_to_its_json_and_only_the_first_names_it() -> None:
    text = CALL.arguments_json
    events = [ToolCallDelta(0, "c", "add", text[:4]), ToolCallDelta(0, "c", None, text[4:])]
    (first,), (second,) = (delta["tool_calls"] for delta in deltas(events)[1:-1])
    assert set(second) == {"index", "function"} and first["type"] == "function"
    whole = chat().whole([result(content=None, tool_calls=[CALL], finish_reason="tool_calls")])
    message = whole["choices"][0]["message"]
    assert message["content"] is None
    (called,) = message["tool_calls"]
    assert called["id"] == first["id"]
    assert called["function"]["arguments"] == first["function"]["arguments"] + second["function"]["arguments"]


def test_each_call_of_each_answer_has_an_id_of_its_own() -> None:
    calls = [result(tool_calls=[CALL, CALL])] * 2
    choices = chat(n=2).whole(calls)["choices"]
    ids = [call["id"] for choice in choices for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 4


def test_a_chat_in_one_piece_has_reasoning_usage_and_never_no_content() -> None:
    whole = chat().whole([result(reasoning="Sum.", content=None, finish_reason="length")])
    (choice,) = whole["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "",
        "refusal": None,
        "reasoning_content": "Sum.",
    }
    assert choice["finish_reason"] == "length" and choice["logprobs"] is None
    assert whole["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_a_prompt_of_several_answers_counts_once() -> None:
    usage = chat(n=3).whole([result()] * 3)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 15)


def test_the_usage_of_a_stream_comes_last_and_without_choices() -> None:
    writer = chat(stream=True, stream_options={"include_usage": True})
    told = streamed(writer, [Piece(index=0, events=[Content("3")], result=result())], [result()])
    assert told[-2]["choices"] == [] and told[-2]["usage"]["total_tokens"] == 12
    assert all(chunk["usage"] is None for chunk in told[:-2])


def test_log_probabilities_come_once_also_of_tokens_without_a_text() -> None:
    writer = chat(stream=True, logprobs=True, top_logprobs=2)
    pieces = [
        Piece(index=0, events=(), logprobs=[logprob(0)]),
        Piece(index=0, events=[Reasoning("Sum."), Content("It is ")], logprobs=[logprob(1), logprob(3)]),
        Piece(index=0, events=(), logprobs=[logprob(5, float("-inf"))], result=result()),
        Piece(index=0, events=()),
    ]
    told = [chunk["choices"][0]["logprobs"] for chunk in streamed(writer, pieces, [result()])[:-1]]
    items = [item for found in told if found for item in found["content"]]
    assert [item["token"] for item in items] == ["<think>", "Sum.", "It is ", "."]
    assert items[-1]["logprob"] == -9999.0 and items[0]["bytes"] == list(b"<think>")
    assert [top["token"] for top in items[1]["top_logprobs"]] == ["Sum.", "It is "]
    whole = chat(logprobs=True).whole([result(logprobs=[logprob(0)])])
    assert whole["choices"][0]["logprobs"]["content"] == [items[0]]


def test_a_stream_that_can_t_go_on_ends_with_the_error() -> None:
    for writer in (chat(stream=True), completion(stream=True)):
        assert json.loads(writer.failure(crashed()).removeprefix("data: ")) == crashed().openai()
    assert messages(stream=True).failure(crashed()).startswith("event: error\ndata: ")


# ---- /v1/completions ----


def completion(**fields: Any) -> CompletionAnswer:
    ask = completion_ask(
        read(CompletionRequest, {"model": "pocket", "prompt": "Add", **fields})[0], ServeConfig()
    )
    return CompletionAnswer(ask, opening(ask.rows))


SCORED = [None, logprob(3), logprob(4)]


@pytest.mark.parametrize("echo", [False, True])
def test_a_completion_s_stream_adds_up_to_the_answer_in_one_piece(echo: bool) -> None:
    fields = {"logprobs": 1, "echo": echo, "stream_options": {"include_usage": True}}
    ended = result(logprobs=[logprob(3), logprob(4)], prompt_logprobs=SCORED)
    pieces = [
        Piece(index=0, events=[Content("It is ")], logprobs=[logprob(3)], prompt_logprobs=SCORED),
        Piece(index=0, events=(), prompt_logprobs=SCORED),
        Piece(index=0, events=[Content("3.")], logprobs=[logprob(4)], prompt_logprobs=SCORED, result=ended),
    ]
    told = streamed(completion(stream=True, **fields), pieces, [ended])
    chunks = [chunk["choices"][0] for chunk in told[:-2]]
    (whole,) = completion(logprobs=1, echo=echo).whole([ended])["choices"]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"] == ("Add" if echo else "") + "It is 3."
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [item for chunk in chunks if chunk["logprobs"] for item in chunk["logprobs"][name]]
        assert joined == whole["logprobs"][name]
    assert chunks[-1]["finish_reason"] == whole["finish_reason"] == "stop"
    assert told[-2]["usage"]["total_tokens"] == 12


def test_an_echo_s_first_token_has_no_log_probability_and_offsets_count_characters() -> None:
    ended = result(logprobs=[logprob(5)], prompt_logprobs=SCORED)
    (choice,) = completion(echo=True, logprobs=0).whole([ended])["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["A", "It is ", "3", "."]
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"] == [0, 1, 7, 8]


def test_where_only_the_prompt_is_wanted_nothing_else_is_told() -> None:
    answer = completion(echo=True, max_tokens=0)
    whole = answer.whole([result(finish_reason="length")])
    assert whole["choices"][0]["text"] == "Add" and whole["choices"][0]["logprobs"] is None
    assert whole["usage"]["completion_tokens"] == 0
    told = streamed(
        completion(echo=True, max_tokens=0, stream=True),
        [Piece(index=0, events=[Content("3")], result=result())],
        [result()],
    )
    assert [chunk and chunk["choices"][0]["text"] for chunk in told] == ["Add", "", None]


def test_every_prompt_counts_once() -> None:
    usage = completion(prompt=["a", "b"], n=2).whole([result()] * 4)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (14, 20)


def test_a_token_that_is_no_whole_character_is_called_by_its_bytes_and_keeps_its_place() -> None:
    parts = {0: "你".encode()[:1], 1: "你".encode()[1:], 2: b"\xe6", 3: b"!"}

    def scored(id: int) -> Logprob:
        return Logprob(
            token_id=id, text="\ufffd", logprob=-1.0, top=((0, "\ufffd", -2.0), (2, "\ufffd", -3.0))
        )

    ask = completion_ask(
        read(CompletionRequest, {"model": "m", "prompt": "你!", "echo": True, "logprobs": 2})[0],
        ServeConfig(),
    )
    given = dataclasses.replace(opening(), texts=["你!"], firsts=[0], bytes_of=parts.__getitem__)
    ended = result(
        text="你!", logprobs=[scored(0), scored(1), scored(3)], prompt_logprobs=[None, scored(1), scored(3)]
    )
    told = CompletionAnswer(ask, given).whole([ended])["choices"][0]["logprobs"]
    pieces = [
        Piece(
            index=0,
            events=(Content("你"),),
            logprobs=ended.logprobs[:2],
            prompt_logprobs=ended.prompt_logprobs,
        ),
        Piece(index=0, events=(Content("!"),), logprobs=ended.logprobs[2:], result=ended),
    ]
    chunks = [event for event in streamed(CompletionAnswer(ask, given), pieces, [ended]) if event]
    parts_of = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"]]
    assert [token for part in parts_of if part for token in part["tokens"]] == told["tokens"]
    assert told["tokens"] == ["bytes:\\xe4", "bytes:\\xbd\\xa0", "!"] * 2
    assert told["text_offset"] == [0, 0, 1, 2, 2, 3]
    assert set(told["top_logprobs"][-1]) == {"bytes:\\xe4", "bytes:\\xe6", "!"}


# ---- /v1/messages ----


def messages(**fields: Any) -> MessagesAnswer:
    body = {"model": "pocket", "max_tokens": 9, "messages": HELLO, **fields}
    return MessagesAnswer(messages_ask(read(MessagesRequest, body)[0], ServeConfig()), opening())


def test_a_message_s_events_add_up_to_the_message() -> None:
    events = [
        Reasoning("Su"),
        Reasoning("m."),
        Content("It "),
        Content("is 3."),
        ToolCallDelta(0, "c", "add", CALL.arguments_json),
        Content("!"),
        Finish("tool_calls"),
    ]
    ended = result(reasoning="Sum.", content="It is 3.!", tool_calls=[CALL], finish_reason="tool_calls")
    told = streamed(messages(stream=True), [Piece(index=0, events=events, result=ended)], [ended])
    assert told[0]["type"] == "message_start"
    blocks: list[Any] = []
    for event in told:
        match event["type"]:
            case "content_block_start":
                blocks.append(dict(event["content_block"]))
                assert event["index"] == len(blocks) - 1
            case "content_block_delta":
                kind = event["delta"]["type"].removesuffix("_delta")
                field = {"text": "text", "thinking": "thinking", "input_json": "partial_json"}[kind]
                name = "input" if kind == "input_json" else field
                blocks[-1][name] = (blocks[-1][name] or "") + event["delta"][field]
    blocks[2]["input"] = json.loads(blocks[2]["input"])
    whole = messages().whole([ended])
    assert blocks[:1] == whole["content"][:1] == [{"type": "thinking", "thinking": "Sum.", "signature": ""}]
    assert blocks[2] == whole["content"][2]
    assert blocks[1]["text"] + blocks[3]["text"] == whole["content"][1]["text"]
    assert told[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert told[-2]["usage"] == whole["usage"]
    assert [event["type"] for event in told].count("content_block_stop") == len(blocks)
    assert told[-1] == {"type": "message_stop"}


def test_tokens_from_the_cache_are_counted_apart_as_anthropic_does() -> None:
    usage = messages().whole([result()])["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (4, 3, 5)


def test_a_late_thought_becomes_a_block_behind_what_was_taken_for_the_answer() -> None:
    events = [Content("Sum."), Recast("Sum."), Content("3")]
    told = streamed(messages(stream=True), [Piece(index=0, events=events)], [result()])
    starts = [event["content_block"]["type"] for event in told if event["type"] == "content_block_start"]
    assert starts == ["text", "thinking", "text"]


def test_a_thought_that_shall_be_omitted_is_an_empty_block() -> None:
    answer = messages(stream=True, thinking={"type": "adaptive", "display": "omitted"})
    told = answer.piece(Piece(index=0, events=[Reasoning("Sum."), Content("3")]))
    assert "Sum." not in told and told.count("content_block_start") == 4
    blocks = answer.whole([result(reasoning="Sum.")])["content"]
    assert blocks[0] == {"type": "thinking", "thinking": "", "signature": ""}


def test_an_answer_of_nothing_is_a_message_without_blocks() -> None:
    told = streamed(messages(stream=True), [], [result(content=None, finish_reason="length")])
    assert [event["type"] for event in told] == ["message_start", "message_delta", "message_stop"]
    assert messages().whole([result(content=None)])["content"] == []


@pytest.mark.parametrize(
    ("text", "ids", "reason", "stop"),
    [
        ("It is 3.", [3, 4, 5, 6], "stop_sequence", " END"),
        ("It is ", [3, 4, 5], "stop_sequence", "3"),
        ("It is 3.", [3, 4, 5], "end_turn", None),
        ("It is 3.", [3, 4, 5, 7], "end_turn", None),
    ],
)
def test_the_stop_sequence_that_ended_it_is_named(text: str, ids: list[int], reason: str, stop: str) -> None:
    answer = messages(stop_sequences=["3", " END"] if stop == "3" else [" END", "<|im_end|>"])
    whole = answer.whole([result(text=text, token_ids=ids)])
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, stop)
    whole = answer.whole([result(text=text, token_ids=ids, finish_reason="length")])
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("max_tokens", None)


def test_no_character_that_some_clients_take_for_the_end_of_a_line_is_sent_as_it_is() -> None:
    event = sent({"text": "a\u2028b\u2029c\x85d\x1ce"})
    assert event.splitlines() == [event.removesuffix("\n\n"), ""]
    assert json.loads(event.removeprefix("data: "))["text"] == "a\u2028b\u2029c\x85d\x1ce"
