"""Markdown that is still being written: which blocks come, when, and that the pieces do not matter."""

import time
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pureqwen.cli.blocks import BLANK, Block, Blocks, outline

DOCUMENT = """# Sum

Some *text*
on two lines.

| a | b |
|---|---|
| 1 | 2 |

1. one
2. two

   still two
3. three

Between.
```py
x = 1

y = 2
```
> quoted

- a
  - nested
- b
* c

***
~~~
no end
"""


def parted(text: str, *cuts: int) -> list[Block]:
    """The blocks of a text that arrives cut at these places."""
    blocks = Blocks()
    places = sorted({0, len(text), *cuts})
    found = [block for a, b in pairwise(places) for block in blocks.push(text[a:b])]
    return found + blocks.finish()


def given_out(text: str) -> list[str]:
    """What is given out before the text has ended."""
    return [block.text for block in Blocks().push(text)]


def test_a_document_comes_as_its_blocks() -> None:
    assert [block.text for block in parted(DOCUMENT)] == [
        "# Sum\n",
        "Some *text*\non two lines.\n\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n",
        "1. one\n",
        "2. two\n\n   still two\n",
        "3. three\n\n",
        "Between.\n",
        "```py\nx = 1\n\ny = 2\n```\n",
        "> quoted\n\n",
        "- a\n  - nested\n",
        "- b\n",
        "* c\n\n",
        "***\n",
        "~~~\nno end\n",
    ]


def test_items_know_their_number_and_whether_they_go_on_with_a_list() -> None:
    items = [(block.number, block.follows) for block in parted("7. a\n7. b\n7. c\n\n- d\n- e\n")]
    assert items == [(7, False), (8, True), (9, True), (None, False), (None, True)]


@settings(max_examples=30)
@given(st.lists(st.integers(0, len(DOCUMENT)), max_size=30))
def test_the_pieces_that_a_text_comes_in_do_not_matter(cuts: list[int]) -> None:
    assert parted(DOCUMENT, *cuts) == parted(DOCUMENT)


MARKS = st.lists(
    st.sampled_from(
        [
            *(
                "# ",
                "- ",
                "1. ",
                "2) ",
                "> ",
                "```",
                "~~~",
                "    ",
                "  ",
                "|a|b|",
                "|--|--|",
                "a",
                "*b*",
                "\t",
            ),
            *("<p>", "[x]: y", "===", "---", "\n", "\n", "\n", "\n\n", "\u3000"),
        ]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=60)
@given(MARKS)
@example("- \n1. ")
def test_no_text_is_lost_or_parted_otherwise_character_by_character(text: str) -> None:
    whole, rest = parted(text), text
    for block in whole:
        before, found, rest = rest.partition(block.text)
        assert found and not before.strip(BLANK)
    assert not rest.strip(BLANK)
    assert parted(text, *range(len(text))) == whole


@settings(max_examples=80)
@given(MARKS)
def test_each_block_means_alone_what_it_means_in_the_text(text: str) -> None:
    def kinds(text: str) -> list[str]:
        return [token.type for token in outline().parse(text) if token.level == 0 and token.map]

    alone = [(kinds(block.text), block.follows) for block in parted(text)]
    assert all(len(found) == 1 for found, _ in alone)
    assert [found[0] for found, follows in alone if not follows] == kinds(text)


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("# Head", []),  # the line is not over
        ("# Head\n", ["# Head\n"]),
        ("Words\n", []),  # === may follow, or more words
        ("Words\n\n", ["Words\n\n"]),
        ("| a |\n|--|\n| 1", []),  # half a table
        ("| a |\n|--|\n| 1 |\n\n", ["| a |\n|--|\n| 1 |\n\n"]),
        ("- one\n- tw", []),  # the first item is complete when the second one's line shows that it is one
        ("- one\n- two\n", ["- one\n"]),
        ("- one\n\n", []),  # more of the item may follow
        ("- one\n\nWords", []),
        ("- one\n\nWords\n", ["- one\n\n"]),
        ("```\ncode\n\n", []),
        ("```\ncode\n```\n", ["```\ncode\n```\n"]),
        ("````\n```\n", []),  # a shorter fence is code
        ("> a\n\n", ["> a\n\n"]),
    ],
)
def test_a_block_is_given_out_when_nothing_more_can_belong_to_it(text: str, out: list[str]) -> None:
    assert given_out(text) == out


@pytest.mark.parametrize("text", ["```py\nx = 1", "```", "| a | b |\n|--", "- one", "Words", "29842."])
def test_what_never_ends_is_given_out_at_the_end(text: str) -> None:
    assert given_out(text + "\n") == []
    assert "".join(block.text for block in parted(text)) == text


def test_html_and_references_are_words_and_do_not_vanish() -> None:
    text = "<div>\n\n[1]: http://somewhere\n\n<!-- not seen -->\n"
    assert "".join(block.text for block in parted(text)) == text


def test_a_block_that_does_not_end_is_not_parsed_again_for_every_line() -> None:
    """A small model may write one line for ever; parsing them all anew each time is quadratic."""
    began = time.process_time()
    for line in ("| a | b |\n", "> a\n", "    a\n", "a b c\n"):
        blocks = Blocks()
        for _ in range(4_000):
            blocks.push(line)
        assert len(blocks.finish()) == 1
    assert time.process_time() - began < 10
