"""/tokens: the last answer, each token coloured by its surprise, and what else a token could have been.

    The sky·is  ↵        a token is shown with its spaces and line breaks; its number stands under it
    1   2  3    4        /tokens 3 shows the five likeliest tokens in the place of the third

Surprise is -log2 p in bits (explain/surprise.py). Where there is no colour, each token has a line of its own.
"""

import math
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pureqwen.cli.terminal import plain_table, visible

if TYPE_CHECKING:
    from pureqwen.cli.chat import Chat
    from pureqwen.generate import Logprob

TOP = 5  # alternatives of a token
AROUND = 8  # tokens on either side of one that is looked at
LONGEST = 40  # characters of a token that are shown

BLANKS = MappingProxyType(str.maketrans({" ": "·", "\n": "↵", "\t": "⇥"}))
# From so many bits on, in this style, called so.
LEVELS = (
    (0.0, "", "under 0.15"),
    (0.15, "black on color(151)", "0.15 to 1"),
    (1.0, "black on color(222)", "1 to 2"),
    (2.0, "black on color(215)", "2 to 4"),
    (4.0, "color(231) on color(160)", "over 4"),
)
FORCED = "black on color(147)"


def show_tokens(chat: "Chat", argument: str) -> None:
    """The command: all tokens, or one of them."""
    scores = scored(chat)
    names = [label(chat.qwen.tokenizer, score.token_id, score.text) for score in scores]
    things: list[Text | Table]
    if argument:
        things = [*closer(chat, scores, names, chosen(argument, len(scores)))]
    elif chat.screen.colour:
        width = chat.screen.width
        things = [*gloss(scores, names, width), Text(), *legend(scores, width), Text(totals(scores))]
    else:
        things = [listing(scores, names), Text(), Text(totals(scores))]
    chat.screen.draw(Group(*things))
    chat.screen.line()


def bits(logprob: float) -> float:
    """The surprise of a log-probability; infinite where the token could not come."""
    return max(0.0, -logprob / math.log(2))


def percent(logprob: float) -> str:
    value = 100 * math.exp(logprob)
    return f"{value:.1f} %" if value >= 0.05 or not value else "< 0.1 %"


def style_of(score: "Logprob") -> str:
    """The colour of a token."""
    if score.forced:
        return FORCED
    return next(style for least, style, _ in reversed(LEVELS) if bits(score.logprob) >= least)


def chosen(argument: str, count: int) -> int:
    """The number of a token from its text. Raises ValueError."""
    if not (argument.isascii() and argument.isdigit() and 1 <= int(argument) <= count):
        raise ValueError(f"/tokens takes the number of a token, 1 to {count}, not {argument[:40]}")
    return int(argument)


def scored(chat: "Chat") -> list["Logprob"]:
    """The log-probabilities of the last answer. One from a file is read by the model once more."""
    talk = chat.conversation
    place = talk.last("assistant")
    if place is None:
        raise ValueError("there is no answer yet whose tokens could be shown")
    if chat.scored is None or chat.scored[0] is not talk.turns[place]:
        chat.scored = talk.turns[place], read_again(chat, place)
    return chat.scored[1]


def read_again(chat: "Chat", place: int) -> list["Logprob"]:
    """The log-probabilities of an answer of which the words alone are known, as the template writes it."""
    from pureqwen.explain.surprise import surprise  # brings torch
    from pureqwen.qwen import common_prefix

    talk, qwen = chat.conversation, chat.qwen
    template, tokenizer = qwen.template, qwen.tokenizer
    assert template is not None and tokenizer is not None
    variables: dict[str, Any] = {} if talk.thinking is None else {"enable_thinking": talk.thinking}
    tools = talk.tools or None
    before, after = template.prepare(talk.messages[:place]), template.prepare(talk.messages[: place + 1])
    prompt = template.encode(tokenizer, before, tools=tools, **variables)
    ids = template.encode(tokenizer, after, tools=tools, add_generation_prompt=False, **variables)
    start = max(common_prefix(prompt, ids), 1)
    end = next((n for n in range(start, len(ids)) if ids[n] in qwen.eos_ids), len(ids) - 1) + 1
    if end > qwen.context:
        raise ValueError(f"the chat has {end:,} tokens up to this answer, the context holds {qwen.context:,}")
    return surprise(
        qwen.model, ids[:end], start=start, top=TOP, text_of=lambda token: tokenizer.decode([token])
    )


def label(tokenizer: Any, token: int, text: str) -> str:
    """A token so that each character of it is seen: blanks as signs, bytes of half a character as \\x.."""
    if tokenizer is not None:
        text = tokenizer.token_bytes(token).decode(errors="backslashreplace")
    shown = visible(text.translate(BLANKS)) or f"[{token}]"
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def gloss(scores: Sequence["Logprob"], names: Sequence[str], width: int) -> Iterator[Text]:
    """Two lines for each row: the tokens, and their numbers under them. A line of the answer begins a row."""
    upper, lower = Text(no_wrap=True), Text(no_wrap=True)
    for number, (score, name) in enumerate(zip(scores, names, strict=True), 1):
        room = max(cell_len(name), len(str(number))) + 1
        if upper and upper.cell_len + room > width:
            yield from (upper, lower)
            upper, lower = Text(no_wrap=True), Text(no_wrap=True)
        upper.append(name, style_of(score))
        upper.append(" " * (room - cell_len(name)))
        lower.append(str(number).ljust(room), "dim")
        if "↵" in name:
            yield from (upper, lower)
            upper, lower = Text(no_wrap=True), Text(no_wrap=True)
    if upper:
        yield from (upper, lower)


def listing(scores: Sequence["Logprob"], names: Sequence[str]) -> Table:
    """A line for each token."""
    table = plain_table("token", "number", "bits", "p")
    for number, (score, name) in enumerate(zip(scores, names, strict=True), 1):
        table.add_row(name, str(number), f"{bits(score.logprob):.2f}", percent(score.logprob))
    return table


def legend(scores: Sequence["Logprob"], width: int) -> Iterator[Text]:
    """What the colours mean; a name is not broken."""
    names = [(name, style) for _, style, name in LEVELS]
    if any(score.forced for score in scores):
        names.append(("forced", FORCED))
    line = Text("bits of surprise: ", no_wrap=True)
    for name, style in names:
        if line.cell_len + len(name) + 2 > width:
            yield line
            line = Text(no_wrap=True)
        line.append(f" {name} ", style)
        line.append(" ")
    yield line


def totals(scores: Sequence["Logprob"]) -> str:
    """How surprising the answer was, and where most. Forced tokens were not the model's choice: left out."""
    values = [(bits(score.logprob), n) for n, score in enumerate(scores, 1) if not score.forced]
    if not values:
        return ""
    most, number = max(values, key=lambda pair: (pair[0], -pair[1]))
    mean = sum(value for value, _ in values) / len(values)
    return f"{mean:.2g} bits a token; token {number} has the most, {most:.2g}. /tokens N looks at one."


def closer(
    chat: "Chat", scores: Sequence["Logprob"], names: Sequence[str], number: int
) -> Iterator[Text | Table]:
    """One token among its neighbours, and the likeliest tokens in its place."""
    score = scores[number - 1]
    first = max(0, number - 1 - AROUND)
    line = Text()
    line.append("… " if first else "", "dim")
    for place in range(first, min(len(names), number + AROUND)):
        line.append(names[place], "bold reverse" if place == number - 1 else "")
    yield line
    yield Text()
    rows = list(score.top[:TOP])
    if score.token_id not in [token for token, _, _ in rows]:
        rows.append((score.token_id, score.text, score.logprob))
    table = plain_table("", "token", "p", "bits", "", left=2)
    for token, text, value in rows:
        said = token == score.token_id
        name = Text(label(chat.qwen.tokenizer, token, text), "bold" if said else "")
        bar = Text("█" * round(20 * math.exp(value)), "dim", justify="left")
        table.add_row("▸" if said else "", name, percent(value), f"{bits(value):.2f}", bar)
    yield table
    if score.forced:
        yield Text()
        yield Text("forced by the thinking budget: it was not the model's choice", "dim")
