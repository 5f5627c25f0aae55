"""Answers as drawn Markdown: what stands on the terminal, once, however the words arrived."""

import re
from itertools import pairwise

import pytest
from fake_qwen import PAGE, Terminal
from hypothesis import given, settings
from hypothesis import strategies as st

from pureqwen.chat import Content, Reasoning, Recast
from pureqwen.cli import gallery
from pureqwen.cli.blocks import Block, Blocks
from pureqwen.cli.markdown import drawing
from pureqwen.cli.page import Page
from pureqwen.cli.terminal import Screen, drawn

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def plain(text: str, width: int = 80) -> str:
    """A text as it is drawn, without its colours."""
    blocks = Blocks()
    lines: list[str] = []
    for block in blocks.push(text) + blocks.finish():
        lines += [""] * (bool(lines) and not block.follows)
        lines += drawn(drawing(block), width, colour=False)
    return "\n".join(lines)


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that says that more is coming is written at once."""
    monkeypatch.setattr(gallery, "PATIENCE", 0.0)
    monkeypatch.setattr(gallery, "PULSE", 0.0)


def test_a_page_is_drawn_as_a_reader_expects_it() -> None:
    rule = "─" * 60
    assert plain(PAGE, 60).split("\n") == [
        "Sum",
        "",
        "Some bold words",
        "on two lines.",
        "",
        " name  value",
        " ───────────",
        " a         1",
        "",
        " 1. one",
        " 2. two",
        "",
        "python " + rule[7:],
        "def double(x: int) -> int:",
        "    return 2 * x  # twice",
        rule,
        "",
        "The end.",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("29842.", "29842."),  # an answer, no item 29842 of a list
        ("007)", "007)"),
        ("[a](http://b.c) ![d](http://e.f)", "a (http://b.c) !d (http://e.f)"),  # where a link leads is seen
        ("<div>\n\n<b>x</b> :smile: [bold]y[/bold]", "<div>\n\n<b>x</b> :smile: [bold]y[/bold]"),
        ("[1]: http://b.c", "[1]: http://b.c"),
        ("1. a\n1. b\n1. c", " 1. a\n 2. b\n 3. c"),
        ("- a\n  - b\n\n    c", " • a\n    • b\n      c"),
        ("> a\n> b", "▌ a\n▌ b"),
        ("3 * 4 = 12\n-----", "3 * 4 = 12"),
        ("```nosuchlanguage\n\tx\n```", "nosuchlanguage " + "─" * 65 + "\n    x\n" + "─" * 80),
        ("| a | b |\n|--", "| a | b |\n|--"),  # half a table is a line of words still
        ("a  \nb\\\nc\nd", "a\nb\nc\nd"),
    ],
)
def test_nothing_that_a_model_wrote_vanishes_or_turns_into_something_else(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_code_is_highlighted_without_a_background_and_can_be_copied() -> None:
    lines = drawn(drawing(Block("```python\ndef f():\n    return 'x'  # why\n```\n")), 80, colour=True)
    assert "\x1b[94;49mdef" in lines[1]
    assert [ESCAPES.sub("", line) for line in lines[1:3]] == ["def f():", "    return 'x'  # why"]
    assert not re.search(r"[;\[]4[0-8][;m]", "".join(lines))


@pytest.mark.parametrize("width", [10, 20, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, plain(PAGE + "\n\n" + "word " * 60, width).split("\n"))) <= width


def shown_by(*events: Content | Reasoning | Recast, columns: int = 60) -> str:
    page = Page(Screen(stream := Terminal()), thinking="show", tags=False, markdown=True)
    for event in events:
        page.show(event)
    page.finish()
    return stream.getvalue()


@settings(max_examples=20)
@given(st.lists(st.integers(0, len(PAGE)), max_size=40))
def test_the_same_stands_there_in_whatever_pieces_it_came(cuts: list[int]) -> None:
    places = sorted({0, len(PAGE), *cuts})
    pieces = [Content(PAGE[a:b]) for a, b in pairwise(places)]
    assert shown_by(*pieces) == shown_by(Content(PAGE))


def test_each_block_is_written_once_and_nothing_is_taken_back() -> None:
    shown = shown_by(*map(Content, PAGE))
    assert shown.count("double") == shown.count("The end.") == 1
    assert "\r" not in shown and "\x1b[K" not in shown and "\x1b[2J" not in shown


def screen_after(raw: str) -> list[str]:
    """What stands on a terminal that knows newlines, carriage returns and how to erase a line."""
    lines = [""]
    for part in re.findall(r"\n|\r\x1b\[K|[^\n\r]+", ESCAPES.sub("", raw)):
        if part == "\n":
            lines.append("")
        else:
            lines[-1] = "" if part.startswith("\r") else lines[-1] + part
    return lines


def test_a_line_shows_that_more_is_coming_and_leaves_no_trace(quick: None) -> None:
    words = [Reasoning("Hm."), *map(Content, PAGE)]
    shown = shown_by(*words)
    assert "writing ... 12 characters" in shown
    assert screen_after(shown) == ["Hm.", "", *plain(PAGE, 60).split("\n")]


def test_a_thought_that_was_taken_for_the_answer_is_shown_and_named(quick: None) -> None:
    lines = screen_after(
        shown_by(Content("So\n\nit "), Content("is"), Recast("So\n\nit is"), Content("Yes."))
    )
    assert lines == ["So", "", "it is", "(what stands above turned out to be thinking)", "Yes."]
