"""A model's ids become reasoning, content, tool calls and a reason to finish, whichever way they arrive."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pureqwen.chat.answer.events import Content, Event, Finish, Reasoning, Recast, ToolCallDelta
from pureqwen.chat.answer.parser import Parser, ReplyOptions
from pureqwen.chat.answer.reply import Reply, parse_tool_calls, split_reasoning
from pureqwen.chat.answer.tools import ToolCall

GOLDEN = Path(__file__).parents[1] / "golden"
THINK, END_THINK, END = 2_000_000, 2_000_001, 2_000_002
ADDED = {"<think>": THINK, "</think>": END_THINK, "<|im_end|>": END}
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


class Bytes:
    """A stream of ids that are bytes, with added tokens."""

    def __init__(self) -> None:
        self.held = b""

    def push(self, token: int, /) -> str:
        for text, number in ADDED.items():
            if number == token:
                return self.finish() + text
        self.held += bytes([token])
        try:
            text, self.held = self.held.decode(), b""
        except UnicodeDecodeError:
            return ""
        return text

    def finish(self) -> str:
        text, self.held = self.held.decode(errors="replace"), b""
        return text


class ByteTokenizer:
    """Bytes as ids. Think tags are added tokens, or plain text."""

    def __init__(self, *, tags: bool = True) -> None:
        self.tags = tags

    def stream(self) -> Bytes:
        return Bytes()

    def token_id(self, text: str, /) -> int | None:
        return ADDED.get(text) if self.tags else None

    def encode(self, text: str) -> list[int]:
        known = [tag for tag in ADDED if self.tags or tag == "<|im_end|>"]
        ids: list[int] = []
        for piece in re.split("(" + "|".join(map(re.escape, known)) + ")", text):
            ids += [ADDED[piece]] if piece in known else list(piece.encode())
        return ids


def replied(
    text: str, *, tags: bool = True, finish: str | None = "stop", **options: Any
) -> tuple[Reply, list[Event]]:
    """The reply to these ids, pushed until it ends, and all events."""
    tokenizer = ByteTokenizer(tags=tags)
    reply = Reply(tokenizer, options=ReplyOptions(end_ids=frozenset({END}), **options))
    events: list[Event] = []
    for token in tokenizer.encode(text):
        events += reply.push(token)
        if reply.finish_reason:
            break
    if finish and not reply.finish_reason:
        events += reply.finish(finish)  # type: ignore[arg-type]
    return reply, events


def told(events: list[Event]) -> tuple[str | None, str | None, list[tuple[str, str]]]:
    """(reasoning, content, [(name, arguments)]) as somebody sees them who has the events only."""
    reasoning = content = ""
    calls: dict[int, tuple[str, str]] = {}
    for event in events:
        match event:
            case Reasoning(text):
                reasoning += text
            case Content(text):
                content += text
            case Recast(text):
                reasoning, content = text, ""
            case ToolCallDelta(index, _, name, arguments):
                before = calls.get(index, (name or "", ""))
                calls[index] = before[0], before[1] + arguments
    return reasoning or None, content or None, [calls[index] for index in sorted(calls)]


def whole(reply: Reply) -> tuple[str | None, str | None, list[tuple[str, str]]]:
    return reply.reasoning, reply.content, [(call.name, call.arguments_json) for call in reply.tool_calls]


def golden(name: str) -> list[Any]:
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    return [pytest.param(case, id=case["id"]) for case in map(json.loads, lines)]


# --- reasoning


@pytest.mark.parametrize("case", golden("reasoning_parsing.jsonl"))
def test_reasoning_is_split_as_the_golden_cases_say(case: dict[str, Any]) -> None:
    """All of them, those marked as a matter of choice included."""
    inside, enabled = case["mode"] == "prompt_opened", case["mode"] != "thinking_disabled"
    expected = case["trimmed"]["reasoning"], case["trimmed"]["content"]
    assert split_reasoning(case["model_output"], inside=inside, enabled=enabled) == expected
    for tags in (True, False):
        reply, events = replied(case["model_output"], tags=tags, inside=inside, enabled=enabled)
        assert (reply.reasoning, reply.content) == expected
        assert told(events) == whole(reply)
        assert reply.text == case["model_output"]


def test_thinking_2507_opens_the_thought_in_the_prompt_so_the_reply_starts_inside() -> None:
    reply, events = replied("Hm.\n</think>\n\nYes.", inside=True)
    assert told(events) == ("Hm.", "Yes.", []) == whole(reply)
    again, _ = replied("<think>\nHm.\n</think>\n\nYes.", inside=True)
    assert again.reasoning == "Hm.", "a second <think> at the start says nothing"


def test_an_answer_without_thinking_does_not_land_in_the_reasoning() -> None:
    """Whatever it says, tags included."""
    for text in ("4", "The tag </think> ends it.", "<think>4"):
        assert told(replied(text, enabled=False)[1]) == (None, text, [])


def test_a_tag_spelled_letter_by_letter_is_text_where_the_tags_are_tokens() -> None:
    tokenizer = ByteTokenizer()
    reply = Reply(tokenizer, options=ReplyOptions(inside=True))
    for token in [*b"say </think> to end", END_THINK, *b"<think> begins"]:
        reply.push(token)
    reply.finish()
    assert (reply.reasoning, reply.content) == ("say </think> to end", "<think> begins")


def test_in_reasoning_tells_whose_the_next_token_is() -> None:
    reply = Reply(ByteTokenizer())
    seen = [reply.in_reasoning]
    for token in (THINK, ord("a"), END_THINK, ord("b")):
        reply.push(token)
        seen.append(reply.in_reasoning)
    assert seen == [False, True, True, False, False]


def test_a_thought_after_some_words_hides_neither() -> None:
    reply, events = replied("Well. <think>4?</think>\n4.", stop=("?",))
    assert whole(reply) == ("4?", "Well. 4.", []) == told(events)


def test_a_thought_closed_but_never_opened_is_recast() -> None:
    _, events = replied("Hm.\n</think>\n\nYes.")
    assert Recast("Hm.") in events
    assert told(events) == ("Hm.", "Yes.", [])


# --- the reason to finish


def test_an_end_within_the_thought_is_told_as_reasoning_without_content() -> None:
    for reason in ("length", "stop", "interrupted"):
        reply, events = replied("<think>\nstill thinking", finish=reason)
        assert (reply.reasoning, reply.content, reply.finish_reason) == ("still thinking", None, reason)
        assert events[-1] == Finish(reason)  # type: ignore[arg-type]
    reply, _ = replied("<think>\nstill thinking<|im_end|>")
    assert (reply.reasoning, reply.content, reply.finish_reason) == ("still thinking", None, "stop")


def test_the_end_token_is_in_the_ids_and_not_in_the_text() -> None:
    reply, events = replied("Yes.<|im_end|>")
    assert reply.token_ids == [*b"Yes.", END]
    assert reply.text == reply.content == "Yes."
    assert [event for event in events if isinstance(event, Finish)] == [Finish("stop")] == events[-1:]


def test_other_control_tokens_are_shown() -> None:
    tokenizer = ByteTokenizer()
    for options in (ReplyOptions(), ReplyOptions(enabled=False)):
        reply = Reply(tokenizer, options=options)
        for token in tokenizer.encode("a<|im_end|>b"):
            reply.push(token)
        reply.finish()
        assert reply.content == "a<|im_end|>b"


def test_tool_calls_are_the_reason_only_of_a_reply_that_ended_by_itself() -> None:
    assert replied(CALL + "<|im_end|>", style="hermes")[0].finish_reason == "tool_calls"
    assert replied(CALL + "END", style="hermes", stop=("END",))[0].finish_reason == "tool_calls"
    assert replied(CALL, style="hermes", finish="length")[0].finish_reason == "length"
    assert replied(CALL, style="hermes", finish="interrupted")[0].finish_reason == "interrupted"
    assert replied(CALL + "<|im_end|>")[0].finish_reason == "stop", "no style: the call is text"


def test_finishing_twice_tells_nothing_and_pushing_after_it_is_our_mistake() -> None:
    reply, _ = replied("a<|im_end|>")
    assert reply.finish("length") == []
    assert reply.finish_reason == "stop"
    with pytest.raises(AssertionError, match="finished"):
        reply.push(1)


# --- characters


def test_half_a_character_is_never_told() -> None:
    tokenizer, reply = ByteTokenizer(), Reply(ByteTokenizer())
    events = [reply.push(token) for token in tokenizer.encode("a\N{GRINNING FACE}b")]
    assert events == [[Content("a")], [], [], [], [Content("\N{GRINNING FACE}")], [Content("b")]]


def test_a_character_that_stays_half_is_told_at_the_end_of_its_part() -> None:
    half = "\N{GRINNING FACE}".encode()[:2]
    reply = Reply(ByteTokenizer())
    for token in [THINK, *half, END_THINK, *half]:
        reply.push(token)
    reply.finish()
    assert reply.reasoning == reply.content == "\N{REPLACEMENT CHARACTER}"


# --- stop strings


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it() -> None:
    reply, events = replied("One. Two. STOP Three.", stop=("STOP",))
    assert (reply.content, reply.text, reply.finish_reason) == ("One. Two. ", "One. Two. ", "stop")
    assert told(events) == (None, "One. Two. ", [])
    assert reply.token_ids == list(b"One. Two. STOP"), "nothing was pushed after it"


def test_a_stop_string_never_fires_inside_the_reasoning() -> None:
    reply, _ = replied("<think>a STOP b</think>c STOP d", stop=("STOP",))
    assert (reply.reasoning, reply.content, reply.finish_reason) == ("a STOP b", "c ", "stop")
    assert replied("<think>a ST</think>OP d", stop=("STOP",))[0].content == "OP d", (
        "not across its border either"
    )


def test_the_line_breaks_after_a_thought_do_not_fire_a_stop_string() -> None:
    reply, _ = replied("<think>a</think>\n\nYes.\n\nNo.", stop=("\n\n",))
    assert reply.content == "Yes."


def test_a_stop_string_waits_for_min_tokens() -> None:
    reply, _ = replied("abxabxx", stop=("ab",), min_tokens=4)
    assert (reply.content, reply.finish_reason, len(reply.token_ids)) == ("abx", "stop", 5)
    assert replied("<think>ab</think>ab", stop=("ab",), min_tokens=4)[0].content is None


def test_no_beginning_of_a_stop_string_leaks_and_only_beginnings_are_held_back() -> None:
    tokenizer = ByteTokenizer()
    reply = Reply(tokenizer, options=ReplyOptions(stop=("STOP",)))
    steps = [(reply.push(token), reply.text) for token in tokenizer.encode("aSTSTOP")]
    assert [events for events, _ in steps[:6]] == [[Content("a")], [], [], [Content("ST")], [], []]
    assert [text for _, text in steps] == ["a", "a", "a", "aST", "aST", "aST", "aST"]
    assert steps[6][0] == [Finish("stop")]
    assert replied("a STO", stop=("STOP",))[0].content == "a STO", "at the end the beginning is text"


def test_of_two_stop_strings_the_one_that_is_complete_first_wins() -> None:
    assert replied("abcd", stop=("abc", "b"))[0].content == "a"
    assert replied("xabcd", stop=("c", "abc"))[0].content == "x", "of two that end together the longer one"
    assert replied("aab", stop=("ab",))[0].content == "a"
    assert replied("aaab", stop=("aab",))[0].content == "a", "what does not fit may still begin it"


def test_a_stop_string_within_a_call_does_not_lose_what_was_held_back() -> None:
    reply, events = replied('a <tool_call>{"nameSTOP', style="hermes", stop=("STOP",))
    assert whole(reply) == (None, 'a <tool_call>{"name', []) == told(events)


def test_a_stop_string_cuts_one_long_token_too() -> None:
    parser = Parser(ReplyOptions(stop=("STOP",)))
    assert parser.feed("a STOP b STOP c") == [Content("a ")]
    assert parser.stopped
    assert parser.feed("d") == parser.close() == []
    assert (parser.text, parser.content) == ("a ", "a ")
    assert Parser(ReplyOptions(stop=("STOP",))).feed("a STOP<think>b</think>c") == [Content("a ")]


@pytest.mark.parametrize("stop", ["STOP", ("",), ("a", 1)])
def test_a_stop_that_would_stop_everywhere_is_refused(stop: Any) -> None:
    with pytest.raises(ValueError, match="stop is a tuple of strings"):
        ReplyOptions(stop=stop)


# --- raw text


def test_raw_text_is_told_as_it_is() -> None:
    text = "\n\n  <think>a</think>" + CALL + " \n"
    reply, events = replied(text, raw=True, enabled=False, style=None)
    assert told(events) == (None, text, [])
    assert reply.text == text


def test_an_answer_keeps_its_end_and_the_margin_of_its_first_line() -> None:
    assert split_reasoning("<think>\n a \n</think>\n\n    code\n") == ("a", "    code\n")
    assert split_reasoning("\n \n") == (None, None)


# --- tool calls within thoughts


def test_a_tool_call_within_a_thought_is_neither_executed_nor_lost() -> None:
    for style in ("hermes", "coder"):
        thought = "<tool_call>\n<function=now>\n</function>\n</tool_call>" if style == "coder" else CALL
        reply, events = replied(f"<think>maybe {thought}</think>No.", style=style)
        assert whole(reply) == (f"maybe {thought}", "No.", []) == told(events)
        assert parse_tool_calls(f"<think>maybe {thought}</think>No.", style) == ("No.", [])


def test_a_thought_cut_off_in_a_tool_call_has_no_call() -> None:
    for style, begun in (("hermes", CALL), ("coder", "<tool_call>\n<function=now>\n<parameter=a>")):
        reply, _ = replied(f"<think>maybe {begun}", style=style, finish="length")
        assert (reply.reasoning, reply.tool_calls) == (f"maybe {begun}", [])


def test_a_coder_call_that_ends_an_open_thought_is_a_call() -> None:
    call = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    reply, events = replied(f"<think>I need it. <tool_call> {call}<|im_end|>", style="coder")
    assert whole(reply) == ("I need it. <tool_call>", None, [("now", "{}")]) == told(events)
    assert reply.finish_reason == "tool_calls"


def test_a_call_begun_before_the_thought_does_not_spoil_the_one_after_it() -> None:
    reply, _ = replied("<function=f><par<think>x</think><function=g></function>", style="coder")
    assert whole(reply) == ("x", "<function=f><par", [("g", "{}")])


# --- whichever way it is cut

PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "<think>",
                "</think>",
                "<tool_call>",
                "</tool_call>",
                "<",
                "</",
                ">",
                "\n",
                " ",
                "a",
                "ST",
                "STOP",
                "OP",
            ),
            *(
                '{"name": "f", "arguments": ',
                '{"x": "a}b"}',
                "}",
                "{",
                '"',
                "\\",
                '{"name": "g"}',
                "\N{GRINNING FACE}",
            ),
            *(
                "<function=f>",
                "<function=",
                "</function>",
                "<parameter=p>",
                "</parameter>",
                "<parameter=",
                "12",
            ),
            *(CALL, "<tool_call>\n<function=f>\n<parameter=p>\n1\n</parameter>\n</function>\n</tool_call>"),
        ]
    ),
    max_size=14,
)
OPTIONS = st.builds(
    ReplyOptions,
    inside=st.booleans(),
    enabled=st.booleans(),
    style=st.sampled_from(["hermes", "coder", None]),
    stop=st.sampled_from([(), ("STOP",), ("\n", "aST"), ("</tool_call>",)]),
)


def state(parser: Parser) -> tuple[object, ...]:
    return parser.text, parser.reasoning, parser.content, parser.tool_calls, parser.stopped


SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=8)


@settings(max_examples=400, deadline=None)
@given(PIECES, OPTIONS, SIZES)
def test_the_same_comes_out_whichever_way_the_text_is_cut(
    pieces: list[str], options: ReplyOptions, sizes: list[int]
) -> None:
    check_cut(pieces, options, sizes)


@pytest.mark.long
@settings(max_examples=15_000, deadline=None)
@given(PIECES, OPTIONS, SIZES)
def test_the_same_comes_out_whichever_way_any_text_is_cut(
    pieces: list[str], options: ReplyOptions, sizes: list[int]
) -> None:
    check_cut(pieces, options, sizes)


def check_cut(pieces: list[str], options: ReplyOptions, sizes: list[int]) -> None:
    text = "".join(pieces)
    once, cut = Parser(options), Parser(options)
    at_once = once.feed(text) + once.close()
    events: list[Event] = []
    at = turn = 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        events += cut.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    events += cut.close()
    assert state(once) == state(cut)
    calls = [(call.name, call.arguments_json) for call in once.tool_calls]
    assert told(events) == told(at_once) == (once.reasoning, once.content, calls)
    if once.stopped:
        assert text.startswith(once.text)
    else:
        assert text == once.text


@settings(max_examples=200, deadline=None)
@given(PIECES, OPTIONS)
def test_a_reply_says_what_the_functions_say_of_its_text(pieces: list[str], options: ReplyOptions) -> None:
    text = "".join(pieces)
    inside, enabled, style = options.inside, options.enabled, options.style
    reply, events = replied(text, inside=inside, enabled=enabled, style=style)
    assert told(events) == whole(reply)
    assert reply.text == text
    if style is None and enabled:
        assert (reply.reasoning, reply.content) == split_reasoning(text, inside=inside)


def test_a_call_is_the_same_told_in_pieces_and_at_once() -> None:
    text = '<tool_call>{"arguments": {"q": "\\u6771 }{", "n": [1, 2.50, null]}, "name": "f"}</tool_call>'
    reply, events = replied(text, style="hermes", call_prefix="r7_")
    _, [call] = parse_tool_calls(text)
    assert call == ToolCall("f", {"q": "\u6771 }{", "n": [1, 2.5, None]}) == reply.tool_calls[0]
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    assert "".join(delta.arguments for delta in deltas) == call.arguments_json
    assert deltas[0].id == reply.tool_calls[0].id == "r7_0"
