"""Messages and tools as a chat template takes them: plain, checked, and which mode of thinking they ask for.

`plain` makes any mapping or sequence a dict or list of JSON's types: nothing else is let into a template.
`prepare` is for messages that come from people and clients: it refuses what a template would drop in silence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")  # of one thing; templates read the first
SWITCH = re.compile(r"(?<!\S)/(no_think|think)(?!\w)")

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


def plain(value: object, *, where: str) -> Any:
    """`value` made of str, int, float, bool, None, list and dict alone; ValueError for anything else."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {plain(key, where=where): plain(item, where=where) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, where=where) for item in value]
    raise ValueError(
        f"{where} holds a {type(value).__name__}: only text, numbers, lists and dicts are possible"
    )


def plain_messages(messages: Messages) -> list[dict[str, Any]]:
    """Messages as transformers hands them on: plain, no field None, the reasoning under one name."""
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(f"messages must be a list of dicts, not {type(messages).__name__}")
    if not messages:
        raise ValueError("there are no messages: a chat needs at least one")
    return [_plain_message(message, number) for number, message in enumerate(messages)]


def _plain_message(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    where = f"message {number}"
    if not isinstance(message, Mapping):
        raise ValueError(f"{where} must be a dict with role and content, not {type(message).__name__}")
    if not isinstance(message.get("role"), str):
        raise ValueError(f"{where} needs a role, one of {', '.join(ROLES)}")
    fields = {key: value for key, value in plain(message, where=where).items() if value is not None}
    reasoning = next((fields[name] for name in REASONING_FIELDS if name in fields), None)
    if reasoning is None:
        return fields
    return {"thinking": reasoning, **fields, "reasoning_content": reasoning}


def plain_tools(tools: Tools | None) -> list[dict[str, Any]] | None:
    """Tool definitions, plain; ValueError for one that is not a dict."""
    if tools is None:
        return None
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Sequence):
        raise ValueError(f"tools must be a list of dicts, not {type(tools).__name__}")
    for number, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise ValueError(f"tool {number} must be a dict (a JSON schema of it), not {type(tool).__name__}")
    return [plain(tool, where=f"tool {number}") for number, tool in enumerate(tools)]


def prepare(messages: Messages, *, parse_arguments: bool) -> list[dict[str, Any]]:
    """Messages as a Qwen template understands them; ValueError, with the number of the message, else.

    Content in parts becomes one text, a line for each. With `parse_arguments` (for a template that goes
    through the arguments of a tool call one by one) arguments that a client sends as JSON text become a dict.
    """
    prepared = plain_messages(messages)
    for number, message in enumerate(prepared):
        where = f"message {number}"
        if message["role"] not in ROLES:
            raise ValueError(f"{where} has the role {message['role']!r}, possible are {', '.join(ROLES)}")
        content = message.get("content")
        if isinstance(content, list):
            message["content"] = _join_parts(content, where)
        elif content is None and not message.get("tool_calls"):
            raise ValueError(f"{where} ({message['role']}) has no content")
        elif not isinstance(content, (str, type(None))):
            raise ValueError(f"{where} has content of type {type(content).__name__}, it must be text")
        _check_reasoning(message, where)
        if "tool_calls" in message:
            message["tool_calls"] = _tool_calls(message, where, parse_arguments)
    return prepared


def _check_reasoning(message: Mapping[str, Any], where: str) -> None:
    if not isinstance(message.get("reasoning_content", ""), str):
        raise ValueError(f"{where} has a reasoning_content that is not text")


def _join_parts(parts: list[Any], where: str) -> str:
    texts: list[str] = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"{where} has a content part of type {kind!r}: this model reads only text parts")
        texts.append(part["text"])
    return "\n".join(texts)


def _tool_calls(message: Mapping[str, Any], where: str, parse_arguments: bool) -> list[dict[str, Any]]:
    calls = message["tool_calls"]
    if message["role"] != "assistant":
        raise ValueError(f"{where} has tool_calls, but only an assistant calls tools")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise ValueError(f"{where}: tool_calls must be a list of dicts")
    return [_tool_call(call, where, parse_arguments) for call in calls]


def _tool_call(call: dict[str, Any], where: str, parse_arguments: bool) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where}: a tool call needs a name")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = {}
    elif isinstance(arguments, str) and parse_arguments:
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: the arguments of {function['name']} are not valid JSON: {error}"
            ) from None
    if not isinstance(arguments, (dict, str)):
        raise ValueError(f"{where}: the arguments of {function['name']} must be an object")
    function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function


def last_switch(messages: Messages) -> bool | None:
    """What the last `/think` or `/no_think` in a user or system message says, None when there is none."""
    for message in reversed(messages):
        if message.get("role") in ("user", "system"):
            switches = SWITCH.findall(_text(message.get("content")))
            if switches:
                return bool(switches[-1] == "think")
    return None


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else ()
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))
