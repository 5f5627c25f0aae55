"""How a block of Markdown looks on a terminal: what rich draws, with the house's own heads, code and lists.

    heading     left, bold               rich centres the first kind, away from what it heads
    code        between two rules        no frame and no background: it can be copied, on light and dark
    list item   its number with its dot  and "42." alone is an answer, not an empty item
    line break  kept                     models write verses and steps on lines of their own

What a model writes is no markup of rich's, and a link shows where it leads.
"""

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import (
    CodeBlock,
    Heading,
    HorizontalRule,
    ListElement,
    ListItem,
    Markdown,
    MarkdownElement,
)
from rich.rule import Rule
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text

from pureqwen.cli.blocks import BLANK, Block, parser

CODE_THEME = "ansi_dark"  # the terminal's own sixteen colours


class Head(Heading):
    """A heading, left."""

    LEVEL_ALIGN = {}  # noqa: RUF012


class Code(CodeBlock):
    """Code between two rules, the upper one with the language."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        language = "" if self.lexer_name == "text" else self.lexer_name
        yield rule(language)
        yield code(str(self.text).rstrip("\n"), self.lexer_name)
        yield rule()


class Line(HorizontalRule):
    """A thematic break."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield rule()


class Items(ListElement):
    """A list whose items know the mark that stood before them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ordered, start = self.list_type == "ordered_list_open", self.list_start or 0
        width = len(str(start + len(self.items) - 1)) + 3 if ordered else 3
        for number, item in enumerate(self.items, start):
            mark = f"{number}.".rjust(width - 1) if ordered else " •"
            lines = console.render_lines(item.elements, options.update(width=options.max_width - width))
            for row, line in enumerate(lines):
                yield Segment((mark if row == 0 else "").ljust(width), console.get_style("cyan"))
                yield from line
                yield Segment("\n")


class Drawing(Markdown):
    """Markdown as this house draws it."""

    elements: dict[str, type[MarkdownElement]] = {  # type: ignore[misc]  # noqa: RUF012
        **Markdown.elements,
        "heading_open": Head,
        "fence": Code,
        "code_block": Code,
        "hr": Line,
        "bullet_list_open": Items,
        "ordered_list_open": Items,
        "list_item_open": ListItem,
    }

    def __init__(self, block: Block) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = parser().parse(block.text)
        if block.number is not None:
            self.parsed[0].attrs["start"] = block.number
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


def drawing(block: Block) -> RenderableType:
    """A block, to be drawn by Screen.draw."""
    empty = block.text.strip(BLANK)
    if block.number is not None and empty.rstrip(".)").isdigit():  # a number and nothing behind it
        return Text(empty)
    return Drawing(block)


def rule(title: str = "") -> Rule:
    return Rule(Text(title, "dim"), align="left", style="dim")


def code(text: str, language: str) -> Syntax:
    """Highlighted code without a background."""
    return Syntax(text, language, theme=CODE_THEME, background_color="default", word_wrap=True)
