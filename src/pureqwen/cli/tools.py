"""Tools tried by hand: definitions from a file, and answers to the model's calls from a person or a command.

A definition is OpenAI's {"type": "function", "function": {"name": ...}}, or the inner object alone; a file
holds one or a list of them. An answer is what the person types, or

    !COMMAND    what a shell command prints that gets the arguments as JSON; $TOOL is the tool's name
    !!text      an answer that begins with an exclamation mark

Only what the person types is ever run; what the model writes reaches a command as its input alone.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pureqwen.chat.answer.tools import json_value
from pureqwen.cli.errors import describe
from pureqwen.cli.prompt import decoded
from pureqwen.cli.terminal import visible

if TYPE_CHECKING:
    from pureqwen.chat import ToolCall
    from pureqwen.qwen import Qwen

Definition = dict[str, Any]


def read_tools(path: Path) -> list[Definition]:
    """The definitions in a JSON file, in OpenAI's form. Raises ValueError, or OSError."""
    content = read_json(path)
    try:
        return checked_tools(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises ValueError, or OSError."""
    try:
        return json_value(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def checked_tools(content: Any) -> list[Definition]:
    """One definition or a list of them, each in OpenAI's form. Raises ValueError."""
    found = content if isinstance(content, list) else [content]
    if not found:
        raise ValueError("the list of tools is empty")
    tools = [
        checked(tool, f"tool {number}" if len(found) > 1 else "the tool")
        for number, tool in enumerate(found, 1)
    ]
    names = [name_of(tool) for tool in tools]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"two tools are called {name}")
    return tools


def checked(tool: Any, where: str) -> Definition:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or ("function" in tool and tool.get("type", "function") != "function"):
        raise ValueError(
            f'{where} must be {{"type": "function", "function": {{"name": ...}}}}, or the inner object'
        )
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f'{where} has no name: "name" must be a text')
    for field, kind, said in (("description", str, "a text"), ("parameters", dict, "an object")):
        if not isinstance(function.get(field, kind()), kind):
            raise ValueError(f"{where}, {name}: {field} must be {said}")
    return {"type": "function", "function": {key: value for key, value in function.items() if key != "type"}}


def name_of(tool: Definition) -> str:
    name: str = tool["function"]["name"]
    return name


def check_place(qwen: "Qwen", tools: Sequence[Definition]) -> None:
    """ValueError where the model's template leaves tools out: it would never hear of them."""
    assert qwen.template is not None
    talk = [{"role": "user", "content": "x"}]
    if qwen.template.render(talk, tools=tools) == qwen.template.render(talk):
        raise ValueError(f"{qwen.name} can't call tools: its chat template has no place for them")


def signature(tool: Definition) -> str:
    """get_weather(city: string, unit?: string): a question mark is behind what may be left out."""
    schema = tool["function"].get("parameters", {})
    properties, required = schema.get("properties"), schema.get("required")
    parts = [
        f"{name}{'' if isinstance(required, list) and name in required else '?'}: {kind_of(value)}"
        for name, value in (properties.items() if isinstance(properties, dict) else ())
    ]
    return f"{name_of(tool)}({', '.join(parts)})"


def kind_of(schema: Any) -> str:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return "|".join(map(str, kind)) if isinstance(kind, list) else str(kind or "any")


def ask(
    calls: Sequence["ToolCall"], read: Callable[[str], str], complain: Callable[[str], None] | None
) -> list[str]:
    """The answer to each call, one after the other; `read` takes a prompt and gives a line.

    A command that fails is told to `complain`, and the answer asked for again; where that is None, nobody is
    there to try another, and the error is raised.
    """
    answers = []
    for number, call in enumerate(calls, 1):
        count = f" {number}/{len(calls)}" if len(calls) > 1 else ""
        prompt = f"{' '.join(visible(call.name).split())[:40]}{count}> "
        answer = None
        while answer is None:
            try:
                answer = answer_of(read(prompt), call)
            except (ValueError, OSError) as error:
                if complain is None or isinstance(error, BrokenPipeError):
                    raise
                complain(f"error: {describe(error)}")
        answers.append(answer)
    return answers


def answer_of(line: str, call: "ToolCall") -> str | None:
    """What a line answers; None for a blank one. Raises ValueError or OSError where its command fails."""
    text = line.rstrip("\r\n")
    if not text.strip():
        return None
    if not text.startswith("!") or text.startswith("!!"):
        return text[1:] if text.startswith("!!") else text
    if not text[1:].strip():
        raise ValueError("behind the ! a command is missing: it gets the arguments, and prints the answer")
    done = subprocess.run(
        text[1:],
        shell=True,
        input=call.arguments_json.encode() + b"\n",
        stdout=subprocess.PIPE,
        env={**os.environ, "TOOL": call.name},
    )
    if done.returncode:
        raise ValueError(f"the command ended with {done.returncode}: {text[1:].strip()}")
    return decoded(done.stdout, "what the command printed")
