"""Messages: what is none is refused with its number, what a client sends is understood."""

import enum

import pytest

from pureqwen.chat import ChatTemplate

HERMES = ChatTemplate("{{ messages[0].role }}{{ tools }}")
CODER = ChatTemplate("{# <function= #}x")
USER = {"role": "user", "content": "hi"}


def call(arguments, **fields):
    return {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
        **fields,
    }


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", "messages must be a list of dicts, not str"),
        (USER, "messages must be a list of dicts, not dict"),
        (None, "messages must be a list of dicts, not NoneType"),
        ([], "there are no messages"),
        (["hi"], "message 0 must be a dict"),
        ([USER, {"content": "x"}], "message 1 needs a role"),
        ([{"role": 1, "content": "x"}], "message 0 needs a role"),
        ([{"role": "user", "content": object()}], "message 0 holds a object"),
        ([{"role": "user", "content": {1, 2}}], "message 0 holds a set"),
    ],
)
def test_what_is_no_message_crashes_inside_the_template(messages, message):
    for function in (HERMES.render, HERMES.prepare):
        with pytest.raises(ValueError, match=message):
            function(messages)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"role": "developer", "content": "x"},
            "role 'developer', possible are system, user, assistant, tool",
        ),
        ({"role": "user"}, r"message 0 \(user\) has no content"),
        ({"role": "user", "content": 3}, "content of type int"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "part of type 'image_url'"),
        ({"role": "user", "content": ["x"]}, "part of type 'str'"),
        ({"role": "user", "content": [{"type": "text"}]}, "part of type 'text'"),
        ({"role": "assistant", "content": "x", "reasoning_content": 3}, "reasoning_content that is not text"),
        ({"role": "user", "content": "x", "tool_calls": []}, "only an assistant calls tools"),
        ({"role": "assistant", "tool_calls": {"name": "f"}}, "tool_calls must be a list"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "a tool call needs a name"),
        (call([1]), "the arguments of f must be an object"),
    ],
)
def test_what_a_template_drops_in_silence_is_an_error(given, message):
    with pytest.raises(ValueError, match=message):
        HERMES.prepare([given])


def test_text_parts_are_dropped_by_the_template():
    parts = [{"type": "text", "text": "a"}, {"text": "b"}]
    assert HERMES.prepare([{"role": "user", "content": parts}]) == [{"role": "user", "content": "a\nb"}]


def test_arguments_as_json_text_crash_the_coder_template():
    prepared = CODER.prepare([call('{"a": [1]}'), call(""), call(None), call({"b": 2})])
    arguments = [message["tool_calls"][0]["function"]["arguments"] for message in prepared]
    assert arguments == [{"a": [1]}, {}, {}, {"b": 2}]
    assert HERMES.prepare([call('{"a":1}')])[0]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
    with pytest.raises(ValueError, match="arguments of f are not valid JSON"):
        CODER.prepare([call("{")])
    with pytest.raises(ValueError, match="must be an object"):
        CODER.prepare([call("[1]")])
    flat = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": 1}'}]}
    assert CODER.prepare([flat])[0]["tool_calls"] == [{"name": "f", "arguments": {"a": 1}}]


def test_none_fields_vanish_and_reasoning_has_one_name():
    prepared = HERMES.prepare([{"role": "assistant", "content": "x", "reasoning": "r", "name": None}])
    assert prepared == [
        {"role": "assistant", "content": "x", "reasoning": "r", "thinking": "r", "reasoning_content": "r"}
    ]


@pytest.mark.parametrize("tools", ["f", {"name": "f"}, ["f"], [None], 3])
def test_tools_that_are_no_schemas_crash_inside_the_template(tools):
    with pytest.raises(ValueError, match=r"tools? .*must be a (list of )?dict"):
        HERMES.render([USER], tools=tools)


def test_objects_with_methods_reach_the_template():
    class Text(str):
        def leak(self):
            return "leaked"

    class Role(enum.StrEnum):
        USER = "user"

    template = ChatTemplate("{{ messages[0].role }}{{ messages[0].content.leak is defined }}")
    assert template.render([{"role": Role.USER, "content": Text("x")}]) == "userFalse"


def test_a_bottomless_message_overflows_the_stack():
    message = {"role": "user", "content": "x"}
    message["self"] = message
    with pytest.raises(ValueError, match="nested too deep"):
        HERMES.render([message])
    deep = "x"
    for _ in range(150):
        deep = [deep]
    with pytest.raises(ValueError, match="more than 100 deep"):
        ChatTemplate("{{ messages|tojson }}").render([{"role": "user", "content": deep}])
