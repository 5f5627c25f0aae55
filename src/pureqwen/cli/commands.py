"""The commands of a chat: what a line that begins with a slash does.

Each is a function of the chat and of the text behind its name; it shows what it has to say, and raises
ValueError or OSError for what can't be done.
"""

import difflib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pureqwen.chat.answer.thought import END_THINK
from pureqwen.cli.conversation import SHOWN, Conversation
from pureqwen.cli.options import PARSERS, parse_field
from pureqwen.cli.tokens import show_tokens
from pureqwen.cli.tools import check_place, name_of, read_tools, signature

if TYPE_CHECKING:
    from pureqwen.cli.chat import Chat

MODES = {"on": True, "off": False, "default": None}


@dataclass(frozen=True)
class Command:
    """A name, what may stand behind it, what it does in a line, and how."""

    name: str
    argument: str
    summary: str
    run: Callable[["Chat", str], None]


def run_command(chat: "Chat", line: str) -> None:
    """Do what a line says. Raises ValueError for a command that there is not, with the nearest."""
    name, _, argument = line.partition(" ")
    command = next((command for command in COMMANDS if command.name == name.strip().lower()), None)
    if command is None:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "/help lists them."
        raise ValueError(
            f"there is no command {name}: {hint} (A message that begins with a slash: /{line[:20]})"
        )
    argument = argument.strip()
    if argument and not command.argument:
        raise ValueError(f"{command.name} takes nothing behind it")
    command.run(chat, argument)


def show_help(chat: "Chat", argument: str) -> None:
    width = max(len(f"{command.name} {command.argument}") for command in COMMANDS)
    for command in COMMANDS:
        chat.screen.line(f"{f'{command.name} {command.argument}':<{width}}  {command.summary}")
    chat.screen.line()
    chat.screen.line("Enter sends, Alt-Enter begins a new line, Ctrl-C stops an answer, Ctrl-D leaves.")
    chat.screen.line("A message that begins with a slash: write two of them.")
    chat.screen.line(
        "Where the model calls a tool, type what the tool answers, or !COMMAND: it gets the arguments "
        "as JSON and prints the answer."
    )


def system(chat: "Chat", argument: str) -> None:
    talk = chat.conversation
    if argument:
        talk.system = None if argument == "none" else argument
    chat.screen.line(f"system: {talk.system}" if talk.system is not None else "no system message", dim=True)


def thinking(chat: "Chat", argument: str) -> None:
    talk = chat.conversation
    shown = next((mode for mode in SHOWN if mode == argument), None)
    if shown is not None:
        talk.shown = shown
    elif argument in MODES:
        assert chat.qwen.template is not None
        chat.qwen.template.check_thinking(MODES[argument])
        talk.thinking = MODES[argument]
    elif argument:
        raise ValueError(f"/thinking takes {', '.join([*SHOWN, *MODES])}, not {argument}")
    mode = next(name for name, value in MODES.items() if value is talk.thinking)
    chat.screen.line(f"thinking: {mode}, {talk.shown}", dim=True)


def regenerate(chat: "Chat", argument: str) -> None:
    talk = chat.conversation
    if chat.failed:  # the last message could not be answered: ask it again
        chat.send(chat.failed)
        return
    place = talk.last("user", "tool")
    if place is None:
        raise ValueError("there is nothing to answer yet")
    before = list(talk.turns)
    del talk.turns[place + 1 :]
    chat.answer(before)


def undo(chat: "Chat", argument: str) -> None:
    text = chat.conversation.undo()
    if text is None:
        raise ValueError("there is nothing to undo")
    chat.screen.line(f"taken back: {text}", dim=True)


def reset(chat: "Chat", argument: str) -> None:
    chat.conversation.reset()
    chat.screen.line("all forgotten but the system message", dim=True)


def tool(chat: "Chat", argument: str) -> None:
    talk = chat.conversation
    if argument == "off":
        talk.tools = []
    elif argument:
        tools = read_tools(path_of(argument))
        check_place(chat.qwen, tools)
        names = {name_of(tool) for tool in tools}  # one that is loaded again is replaced
        talk.tools = [tool for tool in talk.tools if name_of(tool) not in names] + tools
    if not talk.tools:
        chat.screen.line("no tools; /tool FILE loads their JSON schemas", dim=True)
    for known in talk.tools:
        what = " ".join(known["function"].get("description", "").split())
        chat.screen.line(signature(known))
        if what:
            chat.screen.line(f"    {what}", dim=True)


def budget(chat: "Chat", argument: str) -> None:
    talk = chat.conversation
    if argument:
        value = None if argument == "off" else whole("/budget takes a number of tokens, or off", argument)
        tokenizer = chat.qwen.tokenizer
        if value is not None and (tokenizer is None or tokenizer.token_id(END_THINK) is None):
            raise ValueError(f"{chat.qwen.name} does not think: there is nothing to set a budget for")
        talk.params = replace(talk.params, thinking_budget=value)
    value = talk.params.thinking_budget
    said = (
        "no thinking budget"
        if value is None
        else f"thinking budget: {value:,} tokens, then the answer follows"
    )
    idle = " (thinking is off: /thinking on)" if value is not None and talk.thinking is False else ""
    chat.screen.line(said + idle, dim=True)


def whole(rule: str, text: str) -> int:
    """A number without a sign. Raises ValueError that says the rule."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{rule}, not {text[:40]}")
    return int(text)


def markdown(chat: "Chat", argument: str) -> None:
    if argument not in ("", "on", "off"):
        raise ValueError(f"/markdown takes on or off, not {argument}")
    if argument == "on" and not chat.screen.movable:
        raise ValueError("answers are drawn on a terminal only, and here is none")
    chat.markdown = argument == "on" if argument else chat.markdown
    chat.screen.line(f"markdown: {'on' if chat.markdown else 'off'}", dim=True)


def save(chat: "Chat", argument: str) -> None:
    path = path_of(argument)
    chat.conversation.save(path)
    chat.screen.line(f"saved in {path}", dim=True)


def load(chat: "Chat", argument: str) -> None:
    path = path_of(argument)
    found = Conversation.load(path)
    if found.model != chat.conversation.model:
        chat.note(f"{path} was a chat with {found.model}; it goes on with {chat.conversation.model}")
    chat.conversation = replace(found, model=chat.conversation.model)
    chat.screen.line(f"loaded {path}: {len(found.turns)} messages", dim=True)


def stats(chat: "Chat", argument: str) -> None:
    total = chat.totals
    chat.screen.line(f"answers            {total.answers:,}")
    chat.screen.line(f"prompt tokens      {total.prompt:,}, of which {total.cached:,} were in the cache")
    chat.screen.line(f"answers' tokens    {total.completion:,}, of which {total.reasoning:,} were thinking")
    if total.seconds:
        chat.screen.line(f"speed              {total.decoded / total.seconds:.1f} tokens/s on average")
    chat.screen.line(f"context            {total.context:,} of {chat.qwen.context:,} tokens are used")


def set_parameter(chat: "Chat", argument: str) -> None:
    name, _, text = argument.partition(" ")
    name, text = name.replace("-", "_"), text.strip()
    if not name:
        show_parameters(chat)
        return
    if name not in PARSERS:
        near = difflib.get_close_matches(name, PARSERS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PARSERS)}"
        raise ValueError(f"there is no parameter {name}: {hint}")
    if text:
        chat.conversation.params = replace(chat.conversation.params, **{name: parse_field(name, text)})
    value = getattr(chat.conversation.params, name)
    chat.screen.line(f"{name}: {'not set' if value is None else value}", dim=True)


def show_parameters(chat: "Chat") -> None:
    """What is set here, and what the checkpoint sets."""
    for field in fields(chat.conversation.params):
        value, default = (
            getattr(chat.conversation.params, field.name),
            getattr(chat.qwen.defaults, field.name),
        )
        if value is not None:
            chat.screen.line(f"{field.name:<20} {value}")
        elif default is not None:
            chat.screen.line(f"{field.name:<20} {default} (the model's default)", dim=True)
    chat.screen.line("/set NAME VALUE sets one, /set NAME none unsets it.", dim=True)


def path_of(argument: str) -> Path:
    """A file's name, with or without quotes; ~ is the home folder."""
    if argument[:1] in ("'", '"'):
        argument = shlex.split(argument)[0]
    if not argument:
        raise ValueError("give the name of a file")
    return Path(argument).expanduser()


def leave(chat: "Chat", argument: str) -> None:
    raise EOFError


COMMANDS = (
    Command("/help", "", "this list", show_help),
    Command("/system", "[TEXT]", "show or set the system message; none removes it", system),
    Command("/thinking", "[MODE]", "show, fold, hide it; on, off, default: whether to think", thinking),
    Command("/budget", "[N]", "most tokens of thinking; off lifts it", budget),
    Command("/regenerate", "", "answer the last message once more", regenerate),
    Command("/undo", "", "take back the last message and its answer", undo),
    Command("/reset", "", "forget all messages but the system's", reset),
    Command("/tool", "[FILE]", "tools to call, from a JSON file; off removes them", tool),
    Command("/tokens", "[N]", "the last answer by surprise; what else token N could be", show_tokens),
    Command("/markdown", "[MODE]", "on draws whole blocks, off shows words as they come", markdown),
    Command("/save", "FILE", "keep the chat in a file", save),
    Command("/load", "FILE", "go on with a chat from a file", load),
    Command("/stats", "", "tokens and speed so far", stats),
    Command("/set", "[NAME VALUE]", "show or set a sampling parameter; none unsets it", set_parameter),
    Command("/exit", "", "leave (also Ctrl-D)", leave),
)
NAMES = [command.name for command in COMMANDS]
