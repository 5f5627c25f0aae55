"""How much the fields of sampling may ask for, in each of the protocols."""

from collections.abc import Callable
from typing import Any

import pytest

from pureqwen.config import ServeConfig
from pureqwen.serve.protocol.ask import Ask
from pureqwen.serve.protocol.body import read
from pureqwen.serve.protocol.chat import ChatRequest, chat_ask
from pureqwen.serve.protocol.completions import CompletionRequest, completion_ask
from pureqwen.serve.protocol.messages import MessagesRequest, messages_ask
from pureqwen.serve.protocol.refusal import Refusal

Asked = Callable[..., Ask]
HELLO: Any = [{"role": "user", "content": "Hi"}]


def chat(config: ServeConfig, **fields: Any) -> Ask:
    return chat_ask(read(ChatRequest, {"model": "a", "messages": HELLO, **fields})[0], config)


def text(config: ServeConfig, **fields: Any) -> Ask:
    return completion_ask(read(CompletionRequest, {"model": "a", "prompt": "b", **fields})[0], config)


def messages(config: ServeConfig, **fields: Any) -> Ask:
    body = {"model": "a", "max_tokens": 9, "messages": HELLO, **fields}
    return messages_ask(read(MessagesRequest, body)[0], config)


@pytest.mark.parametrize(("asked", "field"), [(chat, "stop"), (text, "stop"), (messages, "stop_sequences")])
def test_long_stop_strings_are_not_made_an_automaton_of_gigabytes(asked: Asked, field: str) -> None:
    """They were counted, but not their characters."""
    config = ServeConfig(max_stop_text=100)
    assert asked(config, **{field: ["a" * 50, "b" * 50]}).params.stop == ("a" * 50, "b" * 50)
    for given in (["a" * 101], ["a" * 50, "b" * 51]):
        with pytest.raises(Refusal, match=f"{field} has 101 characters in all: at most 100") as caught:
            asked(config, **{field: given})
        assert (caught.value.status, caught.value.param) == (400, field)
    assert ServeConfig().max_stop_text <= 4096


@pytest.mark.parametrize("asked", [chat, text])
def test_there_are_not_as_many_stop_token_ids_as_one_likes(asked: Asked) -> None:
    config = ServeConfig(max_stop_ids=3)
    assert asked(config, stop_token_ids=[1, 2, 3]).params.stop_token_ids == (1, 2, 3)
    with pytest.raises(Refusal, match="stop_token_ids has 4 ids: at most 3") as caught:
        asked(config, stop_token_ids=[1, 2, 3, 4])
    assert (caught.value.status, caught.value.param) == (400, "stop_token_ids")


@pytest.mark.parametrize("field", ["max_stops", "max_stop_text", "max_stop_ids", "max_biases"])
def test_a_limit_of_none_is_no_limit_that_one_can_set(field: str) -> None:
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match=field):
            ServeConfig(**{field: wrong})  # type: ignore[arg-type]
