"""Tools for several conversations at once: one list for all, or one for each."""

from typing import Any

import pytest

import pureqwen

WEATHER, CLOCK = (
    {"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object"}}}
    for name in ("weather", "clock")
)
CHATS: list[list[dict[str, Any]]] = [[{"role": "user", "content": text}] for text in ("a", "b", "c")]


@pytest.fixture
def offered(speaking: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`offered(tools, messages)`: the names of the tools that each conversation's prompt holds."""
    qwen = pureqwen.load(speaking[0])
    prompts: list[list[str]] = []
    encode = type(qwen.template).encode

    def spy(template: Any, tokenizer: Any, messages: Any, tools: Any = None, **kwargs: Any) -> list[int]:
        ids = encode(template, tokenizer, messages, tools, **kwargs)
        text = qwen.tokenizer.decode(ids)
        prompts.append([name for name in ("weather", "clock") if f'"name": "{name}"' in text])
        return ids

    monkeypatch.setattr(type(qwen.template), "encode", spy)

    def run(tools: Any, messages: Any = CHATS) -> list[list[str]]:
        prompts.clear()
        qwen.chat(messages, tools=tools, max_tokens=1)
        return list(prompts)

    return run


def test_each_conversation_is_offered_the_tools_of_its_own_list(offered: Any) -> None:
    assert offered([[WEATHER], None, [CLOCK, WEATHER]]) == [["weather"], [], ["weather", "clock"]]
    assert offered(([], [CLOCK], ())) == [[], ["clock"], []]


@pytest.mark.parametrize("tools", [[WEATHER], (WEATHER,)])
def test_one_list_of_tools_is_for_all(offered: Any, tools: Any) -> None:
    assert offered(tools) == [["weather"]] * 3
    assert offered(tools, CHATS[0]) == [["weather"]]


@pytest.mark.parametrize("tools", [None, [], ()])
def test_an_empty_list_is_no_tools_for_all(offered: Any, tools: Any) -> None:
    assert offered(tools) == [[], [], []]


def test_a_list_too_few_or_too_many_is_an_error(offered: Any) -> None:
    with pytest.raises(ValueError, match="2 lists of tools for 3 conversations: give one for all"):
        offered([[WEATHER], [CLOCK]])
    with pytest.raises(ValueError, match="2 lists of tools for 1 conversations"):
        offered([[WEATHER], [CLOCK]], [CHATS[0]])


def test_lists_of_tools_for_a_single_conversation_are_an_error(offered: Any) -> None:
    """They belong to several conversations; one of them must not be picked."""
    with pytest.raises(ValueError, match="tool"):
        offered([[WEATHER]], CHATS[0])
