"""/tokens: the last answer by surprise, and what else a token could have been."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_qwen import FakeQwen, Terminal

import pureqwen
from pureqwen.cli.chat import Chat
from pureqwen.cli.conversation import Conversation
from pureqwen.cli.terminal import Screen
from pureqwen.cli.tokens import LEVELS, bits, label

Run = Callable[..., Any]
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def talk(pureqwen: Run) -> Run:
    """`talk("hi", "/tokens")`: a chat of these lines."""
    return lambda *messages: pureqwen("chat", input="".join(f"{message}\n" for message in messages))


@pytest.fixture
def chat(fake: FakeQwen, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """On a terminal with colours, 40 columns wide."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdin", Terminal())
    return Chat(fake, Conversation(model="fake"), Screen(Terminal()))  # type: ignore[arg-type]


def shown(chat: Chat, line: str) -> list[str]:
    stream = chat.screen.stream
    before = len(stream.getvalue())  # type: ignore[attr-defined]
    chat.take(line)
    return stream.getvalue()[before:].splitlines()  # type: ignore[attr-defined, no-any-return]


def test_each_token_is_seen_with_its_number_under_it_and_lines_end_where_the_answer_s_do(chat: Chat) -> None:
    chat.take("a b c d e f g h i")  # ten tokens, of which the fourth ends a line
    lines = [ESCAPES.sub("", line) for line in shown(chat, "/tokens")]
    assert lines[:5] == [
        "·t0 ·t1 \\xe4 ·t3↵",
        "1   2   3    4",
        "·t4 ·t5 ·t6 ·t7 ·t8 ·t9",
        "5   6   7   8   9   10",
        "",
    ]


def test_a_token_s_colour_is_its_surprise_and_a_legend_says_so(chat: Chat) -> None:
    chat.take("a b c d e f g h i")
    upper, _, second, _, _, *rest = shown(chat, "/tokens")
    paper = re.findall(r"48;5;(\d+)m([^\x1b ]+)", upper + second)
    assert paper == [
        ("147", "·t0"),  # forced
        ("222", "·t1"),  # 1 bit
        ("215", "\\xe4"),  # 2
        ("215", "·t3↵"),
        ("160", "·t4"),
        *[("160", f"·t{n}") for n in range(5, 10)],
    ]
    legend = " ".join(ESCAPES.sub("", line) for line in rest)
    assert "bits of surprise: " in legend and " forced " in legend
    assert all(name in legend for _, _, name in LEVELS)
    assert "5 bits a token; token 10 has the most, 9." in legend


def test_one_token_is_shown_among_its_neighbours_with_the_five_likeliest(chat: Chat) -> None:
    chat.take("a b c d e f g h i")
    lines = shown(chat, "/tokens 2")
    assert "\x1b[1;7m·t1\x1b[0m\\xe4·t3↵·t4" in lines[0]
    table = [ESCAPES.sub("", line).rstrip() for line in lines[2:]]
    assert table[0].split() == ["token", "p", "bits"]
    assert table[1] == "▸  ·t1    50.0 %  1.00  ██████████"
    assert table[5] == "   ·t5     3.1 %  5.00  █"
    assert len(table) == 6


def test_a_token_that_is_not_among_the_likeliest_is_shown_below_them(chat: Chat) -> None:
    chat.take("a b c d e f g h i")
    assert ESCAPES.sub("", shown(chat, "/tokens 10")[-1]).split()[:3] == ["▸", "·t9", "0.2"]


def test_a_forced_token_is_named_and_may_have_been_impossible(chat: Chat) -> None:
    chat.take("hi")
    lines = [ESCAPES.sub("", line) for line in shown(chat, "/tokens 1")]
    assert "forced by the thinking budget: it was not the model's choice" in " ".join(lines)
    assert any(line.split() == ["▸", "·t0", "0.0", "%", "inf"] for line in lines)


def test_a_pipe_gets_a_line_for_each_token(talk: Run) -> None:
    lines = talk("a b", "/tokens").out.splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["token", "number", "bits", "p"],
        ["·t0", "1", "inf", "0.0", "%"],
        ["·t1", "2", "1.00", "50.0", "%"],
        ["\\xe4", "3", "2.00", "25.0", "%"],
    ]


@pytest.mark.parametrize("number", ["0", "3", "-1", "1.5", "two", "²", "1 2"])
def test_a_number_that_no_token_has_is_one_clear_line(number: str, talk: Run) -> None:
    ran = talk("hi", f"/tokens {number}")
    assert ran.err.splitlines()[1:] == [
        f"pureqwen: error: /tokens takes the number of a token, 1 to 2, not {number}"
    ]


def test_without_an_answer_there_is_nothing_to_show(talk: Run) -> None:
    assert "there is no answer yet whose tokens could be shown" in talk("/tokens").err


def test_the_alternatives_are_asked_for_unless_the_user_turned_them_off(talk: Run, fake: FakeQwen) -> None:
    talk("hi", "/set top_logprobs 9", "hi", "/set top_logprobs none", "/set logprobs off", "hi")
    asked = [(one.params.logprobs, one.params.top_logprobs) for one in fake.asked]
    assert asked == [(True, 5), (True, 9), (False, None)]


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (b" a", "·a"),
        (b"\n\t", "↵⇥"),
        (b"\xe4\xbd", "\\xe4\\xbd"),
        (b"\x1b[2J", "\\x1b[2J"),
        ("你".encode(), "你"),
        (b"", "[7]"),
        (b"x" * 99, "x" * 39 + "…"),
    ],
)
def test_each_character_of_a_token_can_be_seen(raw: bytes, seen: str) -> None:
    class Tokenizer:
        def token_bytes(self, token: int) -> bytes:
            return raw

    assert label(Tokenizer(), 7, "?") == seen


def test_bits() -> None:
    assert [bits(math.log(p)) for p in (1.0, 0.5, 0.25)] == [0.0, 1.0, 2.0]
    assert bits(-math.inf) == math.inf and str(bits(0.0)) == "0.0"


class TestAnAnswerFromAFile:
    """Its words alone are known: the model reads them once more."""

    @pytest.fixture
    def chat(self, monkeypatch: pytest.MonkeyPatch) -> Chat:
        monkeypatch.setattr("sys.stdin", Terminal())
        return Chat(pureqwen.load("pocket"), Conversation(model="pocket"), Screen(Terminal()))

    def test_has_the_numbers_that_it_was_generated_with(self, chat: Chat, tmp_path: Path) -> None:
        chat.take("What is 3 + 4?")
        assert chat.scored is not None
        said = chat.scored[1]
        chat.take(f"/save {tmp_path / 'chat.json'}")
        chat.take(f"/load {tmp_path / 'chat.json'}")
        chat.take("/tokens")
        again = chat.scored[1]
        assert again is not said
        assert [score.token_id for score in again] == [score.token_id for score in said]
        for one, other in zip(again, said, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [token for token, _, _ in one.top] == [token for token, _, _ in other.top]

    def test_that_is_longer_than_the_context_is_refused(self, chat: Chat) -> None:
        chat.qwen.context = 10
        chat.conversation.turns = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello you"},
        ]
        with pytest.raises(ValueError, match="up to this answer, the context holds 10"):
            chat.take("/tokens")
