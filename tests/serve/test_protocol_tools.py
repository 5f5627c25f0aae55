"""Tools of a chat request: what is refused of them, and which of their schemas hold in every keyword."""

from typing import Any

import pytest
from test_protocol_chat import SUM, TOOLS, asked, refused

from pureqwen.serve.protocol.ask import Form


def test_strict_tools_are_told_apart_wherever_a_call_may_come() -> None:
    """A tool that is not strict may have a schema that no grammar can hold."""
    loose = {"type": "function", "function": {"name": "sub", "strict": False}}
    tools = [loose, *TOOLS]
    named = {"type": "function", "function": {"name": "sub"}}
    format = {"type": "json_schema", "json_schema": {"name": "a", "schema": SUM}}
    for fields in ({}, {"tool_choice": "required"}, {"tool_choice": named}, {"response_format": format}):
        assert asked(tools=tools, **fields).strict == ("add",)
    assert asked(tools=tools, tool_choice="none").strict == asked(tools=[loose]).strict == ()
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    assert asked(tools=tools, tool_choice=allowed).strict == ()


@pytest.mark.parametrize("kind", ["array", "string", ["object"], None, 5, {}], ids=str)
def test_parameters_of_a_tool_that_are_no_object_are_refused_by_their_place(kind: Any) -> None:
    """A forced call of such a tool was markup in the content."""
    tool = {"type": "function", "function": {"name": "sub", "parameters": {"type": kind}}}
    for choice in ("auto", "required", "none"):
        error = refused(tools=[*TOOLS, tool], tool_choice=choice)
        assert error.param == "tools[1].function.parameters.type" and "object" in error.message
    tool["function"] = {"name": "sub", "parameters": {"properties": {}}}
    assert asked(tools=[tool]).tools == (tool,)


def test_whether_calls_may_be_parallel_is_said_beside_tools_only() -> None:
    for parallel in (True, False):
        assert refused(parallel_tool_calls=parallel).param == "parallel_tool_calls"
        assert refused(parallel_tool_calls=parallel, tools=[]).param == "parallel_tool_calls"
        assert asked(tools=TOOLS, tool_choice="none", parallel_tool_calls=parallel).tools == ()


def test_strict_tools_are_held_to_their_schemas_where_they_may_be_called() -> None:
    loose, strict = ({"type": "function", "function": {"name": n}} for n in "ab")
    strict["function"] |= {"strict": True}
    loose["function"] |= {"strict": False}
    assert asked(tools=[loose, strict]).form == Form(kind="strict", names=("b",))
    assert asked(tools=[loose], tool_choice="auto").form is None
    named = {"type": "function", "function": {"name": "a"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
    assert asked(tools=[loose, strict], tool_choice=allowed).form is None
    assert asked(tools=[strict], tool_choice="none").form is None
