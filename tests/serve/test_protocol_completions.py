"""/v1/completions, /tokenize and /detokenize to what is asked for."""

from typing import Any

import pytest

from pureqwen.config import ServeConfig
from pureqwen.serve.protocol.ask import Ask, Form, check_rows
from pureqwen.serve.protocol.body import read
from pureqwen.serve.protocol.completions import CompletionRequest, completion_ask
from pureqwen.serve.protocol.refusal import Refusal
from pureqwen.serve.protocol.tokens import DetokenizeRequest, TokenizeRequest, tokenize_ask

CONFIG = ServeConfig()


def asked(**fields: Any) -> Ask:
    ask = completion_ask(read(CompletionRequest, {"model": "pocket", "prompt": "a", **fields})[0], CONFIG)
    check_rows(ask, CONFIG)
    return ask


def refused(**fields: Any) -> str | None:
    with pytest.raises(Refusal) as caught:
        asked(**fields)
    return caught.value.param


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ([1, 2],)),
        ([[1, 2], [3]], ([1, 2], [3])),
    ],
)
def test_one_prompt_or_several_of_text_or_of_ids(prompt: Any, prompts: Any) -> None:
    assert asked(prompt=prompt).prompts == prompts


def test_rows_are_answers_times_prompts() -> None:
    assert asked(prompt=["a", "b"], n=3).rows == 6
    assert refused(prompt=["a"] * 9, n=2) == "n"


def test_sixteen_tokens_are_written_where_nobody_says_how_many() -> None:
    assert asked().params.max_tokens == 16


def test_an_echo_may_want_nothing_but_the_prompt() -> None:
    ask = asked(echo=True, max_tokens=0, logprobs=0)
    assert ask.answerless and ask.echo and ask.score_prompt
    assert ask.params.max_tokens == 1 and ask.params.top_logprobs == 0
    assert not asked(echo=True).score_prompt
    assert refused(max_tokens=0) == "max_tokens"


def test_a_form_may_be_demanded_of_a_raw_text_too() -> None:
    assert asked(response_format={"type": "json_object"}).form == Form(kind="json_object")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", []),
        ("prompt", 3),
        ("logprobs", 21),
        ("logprobs", -1),
        ("logprobs", True),
        ("suffix", "b"),
        ("best_of", 2),
        ("max_tokens", -1),
        ("messages", []),
    ],
)
def test_a_wrong_or_unsupported_field_is_named(field: str, value: Any) -> None:
    assert refused(**{field: value}) == field


def test_a_count_of_thousands_of_digits_is_not_repeated_whole() -> None:
    with pytest.raises(Refusal, match=r"^logprobs is 10{76}\.\.\.: it must be"):
        asked(logprobs=10**3999)


def test_of_the_alternatives_for_a_value_the_nearest_is_explained() -> None:
    assert refused(prompt=[["a"]]) == "prompt[0][0]"
    assert refused(prompt=["a", 1]) == "prompt[1]"


def tokenized(**fields: Any) -> Ask:
    return tokenize_ask(read(TokenizeRequest, fields)[0], CONFIG)


def test_tokenize_takes_a_prompt_or_a_conversation_but_not_both() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenized(prompt="a").prompts == ("a",)
    assert tokenized(messages=messages, enable_thinking=False).thinking is False
    assert tokenized(messages=messages).messages == ({"role": "user", "content": "Hi"},)
    for wrong in ({}, {"prompt": "a", "messages": messages}, {"prompt": "a", "enable_thinking": True}):
        with pytest.raises(Refusal):
            tokenized(**wrong)


def test_detokenize_takes_ids() -> None:
    assert read(DetokenizeRequest, {"tokens": [1, 2]})[0].tokens == [1, 2]
    for wrong in ([-1], [2**31], ["a"], [1.0], [True]):
        with pytest.raises(Refusal):
            read(DetokenizeRequest, {"tokens": wrong})
