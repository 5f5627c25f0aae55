"""OpenAI's messages and tools as a client sends them -> as the template takes them.

developer is system. Text parts are joined with line breaks. The arguments of a tool call, JSON text, are
parsed. Results of tools are told in the order of the calls, since templates show no ids.

Without effect: the name of a message, and what OpenAI's client adds to an answer that is sent back to it:
parsed, parsed_arguments, empty annotations. What is null there (refusal, audio, function_call) is not set.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from pureqwen.config import ServeConfig
from pureqwen.serve.protocol.body import Fields, Objects, parse
from pureqwen.serve.protocol.refusal import Refusal

NAME = r"^[A-Za-z0-9_.\-]{1,64}$"


class Text(Fields):
    """A part of a message."""

    type: Literal["text"]
    text: str


Content = str | Objects[Text]
Said = str | Annotated[Objects[Text], Field(min_length=1)]  # no parts would be a message that says nothing


class Named(Fields):
    """A message; templates show no name."""

    name: str | None = None


class System(Named):
    role: Literal["system", "developer"]
    content: Said


class User(Named):
    role: Literal["user"]
    content: Said


class CalledFunction(Fields):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    arguments: str
    parsed_arguments: Any = None


class Call(Fields):
    """A call that the model made; `index` is there when a client collected it from a stream."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Assistant(Named):
    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: Objects[Call] | None = None
    parsed: Any = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class Outcome(Named):
    role: Literal["tool"]
    content: Content
    tool_call_id: str | None = None


Message = Annotated[System | User | Assistant | Outcome, Field(discriminator="role")]


class Function(Fields):
    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Fields):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


def plain_messages(messages: Sequence[System | User | Assistant | Outcome]) -> tuple[dict[str, Any], ...]:
    """Messages for the template. Raises Refusal naming the message."""
    found: list[dict[str, Any]] = []
    order: dict[str, int] = {}  # the places of the last calls, by their ids
    waiting: list[tuple[int, dict[str, Any]]] = []  # results, by the place of their call
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if isinstance(message, Outcome):
            at = placed(message.tool_call_id, order, where=where, field="tool_call_id")
            waiting.append((at, {"role": "tool", "content": joined(message.content)}))
            continue
        found += [told for _, told in sorted(waiting, key=lambda item: item[0])]
        waiting = []
        if isinstance(message, Assistant):
            found.append(_assistant(message, where))
            order = places(call.id or "" for call in message.tool_calls or ())
        else:
            role = "user" if isinstance(message, User) else "system"
            found.append({"role": role, "content": joined(message.content)})
    return (*found, *(told for _, told in sorted(waiting, key=lambda item: item[0])))


def joined(content: Content) -> str:
    """The texts of the parts, a line for each."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def plain_tools(tools: Sequence[Tool], config: ServeConfig) -> tuple[dict[str, Any], ...]:
    """Tools for the template, without what is not set. Raises Refusal for too many, too large, or twice."""
    if len(tools) > config.max_tools:
        raise Refusal(f"there are {len(tools)} tools: at most {config.max_tools} are possible", param="tools")
    names = [tool.function.name for tool in tools]
    for number, tool in enumerate(tools):
        if tool.function.name in names[:number]:
            raise Refusal(
                f"two tools are called {tool.function.name}", param=f"tools[{number}].function.name"
            )
        check_schema(tool.function.parameters, config, param=f"tools[{number}].function.parameters")
    # `strict` is no business of the template's.
    return tuple(
        {"type": "function", "function": tool.function.model_dump(exclude_none=True, exclude={"strict"})}
        for tool in tools
    )


def check_schema(schema: Mapping[str, Any] | None, config: ServeConfig, *, param: str) -> None:
    """Refuse a schema that is larger than the server reads."""
    if schema is None:
        return
    size = len(json.dumps(schema, ensure_ascii=False).encode())
    if size > config.max_schema:
        raise Refusal(
            f"{param} has {size} bytes: at most {config.max_schema} are possible",
            param=param,
            code="schema_too_large",
        )


def _assistant(message: Assistant, where: str) -> dict[str, Any]:
    if message.content is None and message.reasoning_content is None and not message.tool_calls:
        raise Refusal(f"{where} has neither content nor tool_calls", param=f"{where}.content")
    told: dict[str, Any] = {"role": "assistant", "content": joined(message.content or "")}
    if message.reasoning_content is not None:
        told["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        told["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(message.tool_calls)
        ]
    return told


def _call(call: Call, where: str) -> dict[str, Any]:
    try:
        arguments = parse(call.function.arguments.encode() or b"{}")
    except Refusal as refusal:
        text = refusal.message.replace("the body", "the text")
        raise Refusal(f"{where}, the arguments: {text}", param=f"{where}.function.arguments") from None
    return {"type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def places(ids: Iterable[str]) -> dict[str, int]:
    """Calls by their ids: the order in which each came first."""
    found: dict[str, int] = {}
    for id in ids:
        found.setdefault(id, len(found))
    return found


def placed(id: str | None, order: Mapping[str, int], *, where: str, field: str) -> int:
    """Which of the calls `order` a result belongs to; behind them all where it does not say."""
    if id is None:
        return len(order)
    if id not in order:
        raise Refusal(
            f"{where} answers the call {id[:80]!r}, which the assistant's message before it does not have",
            param=f"{where}.{field}",
        )
    return order[id]
