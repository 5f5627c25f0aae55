"""Parting a Markdown text that is still being written into blocks, each given out once, when it is complete.

    "# Sum\n\n| a | b |\n|"   ->   "# Sum\n", and the table is waited for
    "- one\n- tw"             ->   nothing: either item may still grow
    "- one\n- two\n- t"       ->   "- one\n", then "- two\n": a list is given out by its items

What a line does to the blocks before it is known when the line has ended, and a closed block never opens
again (CommonMark 0.31, appendix "A parsing strategy"). So whichever way a text is cut into pieces, the same
blocks come. The parser is markdown-it-py. HTML and references are text to it: a block must mean the same
without the others, and nothing that a model wrote may vanish.

How a block looks is not known here: see markdown.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

BLANK = " \t\n"
ENDED_BY_A_BLANK_LINE = ("paragraph_open", "table_open", "blockquote_open")
PATIENCE = 4  # a block of n lines is parsed again after n / 4 more: all parsing together stays linear


@dataclass(frozen=True)
class Block:
    """A block's source. An item of a list stands alone: `number` is its place in an ordered one."""

    text: str
    number: int | None = None
    follows: bool = False  # it continues the list of the block before it


@cache
def parser() -> MarkdownIt:
    """The Markdown that models write: CommonMark with tables and ~~strikethrough~~."""
    text_only = ["reference", "image", "autolink"]
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(text_only)


@cache
def outline() -> MarkdownIt:
    """The same parser for blocks alone: what stands in their lines is left as it is."""
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(["reference", "inline"])


class Blocks:
    """Text in, blocks out. The sources of all blocks are the text, less blank lines between them."""

    def __init__(self) -> None:
        self._line = ""  # the last one, without its end
        self._lines: list[str] = []  # those that no block was made of yet
        self._list: Block | None = None  # the first of them is an item, and this is what is known of it
        self._open = ""  # the kind of block that the last of them belong to
        self._fence = ""  # the line that closes it, when that is code
        self._closed = False  # nothing more can belong to it
        self._fresh = 0  # lines since they were parsed

    @property
    def waiting(self) -> str:
        """What belongs to no block yet."""
        return "".join(self._lines) + self._line

    def push(self, text: str) -> list[Block]:
        """The blocks that are complete now."""
        *ended, rest = text.split("\n")
        found: list[Block] = []
        for line in ended:
            found += self._end_line(self._line + line + "\n")
            self._line = ""
        self._line += rest
        return found

    def finish(self) -> list[Block]:
        """The blocks that were incomplete when the text ended: an open fence, a table's beginning."""
        if self._line.strip(BLANK) or (self._line and self._lines):
            self._lines.append(self._line)
        return self._parted() if self._lines else []

    def _end_line(self, line: str) -> list[Block]:
        blank = not line.strip(BLANK)
        if blank and not self._lines:
            return []
        self._lines.append(line)
        self._fresh += 1
        ends = (blank and self._open in ENDED_BY_A_BLANK_LINE) or line.strip(BLANK) == self._fence
        if not ends and self._fresh * PATIENCE < len(self._lines):
            return []
        self._fresh = 0
        blocks = self._parted()
        if self._closed:
            self._lines, self._list, self._open, self._fence = [], None, "", ""
            return blocks
        last = blocks[-1]
        self._lines = self._lines[-last.text.count("\n") :]
        self._list = last if last.follows else None
        return blocks[:-1]

    def _parted(self) -> list[Block]:
        """The lines as blocks; a block reaches to where the next one begins."""
        found = list(self._found())
        ends = [start for start, _ in found[1:]] + [len(self._lines)]
        starts = [0, *ends[:-1]]
        return [
            replace(block, text="".join(self._lines[start:end]))
            for (_, block), start, end in zip(found, starts, ends, strict=True)
        ]

    def _found(self) -> Iterator[tuple[int, Block]]:
        """(first line, block without its text), in order."""
        tokens = outline().parse("".join(self._lines))
        known: Block | None = None  # the first item of the list that is being read
        place = 0  # of the next one
        for token in tokens:
            if token.map is None:
                continue
            if token.level == 0:
                self._reach(token)
                if token.type.endswith("list_open"):
                    start = token.attrs.get("start", 1) if token.type == "ordered_list_open" else None
                    fresh = Block("", number=None if start is None else int(start))
                    known, place = (self._list if token is tokens[0] and self._list else fresh), 0
                else:
                    yield token.map[0], Block("")
            elif token.level == 1 and token.type == "list_item_open":
                assert known is not None
                number = None if known.number is None else known.number + place
                yield token.map[0], Block("", number=number, follows=known.follows or place > 0)
                place += 1

    def _reach(self, token: Token) -> None:
        """Note what the last lines are, as far as this block shows."""
        assert token.map is not None
        self._open, self._fence = token.type, ""
        self._closed = token.type in ("heading_open", "hr")
        if token.type in ENDED_BY_A_BLANK_LINE:
            self._closed = not self._lines[-1].strip(BLANK)
        elif token.type == "fence":  # its content has two lines less than its source, or one: it is open
            self._closed = token.map[1] - token.map[0] == token.content.count("\n") + 2
            self._fence = token.markup
