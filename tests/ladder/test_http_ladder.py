"""The last rung: the same greedy tokens by generate, engine and HTTP, alone and among 31 strangers."""

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from serve.running import Running, running

import pureqwen
from pureqwen import Qwen, SamplingParams
from pureqwen.serve.engine import Engine

LENGTH, STRANGERS, MARGIN = 32, 31, 1e-4
PARAMS = SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True)


@pytest.fixture(scope="module")
def qwen(speaking: Any) -> Qwen:
    """A random model in float32 that never repeats itself for long."""
    return pureqwen.load(speaking[0])


@pytest.fixture(scope="module")
def prompts(qwen: Qwen) -> list[list[int]]:
    """Of every length, some of them with a beginning in common."""
    assert qwen.tokenizer is not None
    draw = random.Random(0)
    common = [draw.randrange(qwen.tokenizer.vocab_size - 20) for _ in range(40)]
    lengths = [draw.randrange(1, 150) for _ in range(STRANGERS + 1)]
    alone = [[draw.randrange(qwen.tokenizer.vocab_size - 20) for _ in range(length)] for length in lengths]
    return [common + ids if number % 3 == 0 else ids for number, ids in enumerate(alone)]


@pytest.fixture(scope="module")
def expected(qwen: Qwen, prompts: list[list[int]]) -> list[list[int]]:
    """What generate says to each prompt; no two best tokens are too near one another."""
    results = qwen.generate(
        prompts, temperature=0, max_tokens=LENGTH, ignore_eos=True, logprobs=True, top_logprobs=2
    )
    for result in results:
        assert min(one.top[0][2] - one.top[1][2] for one in result.logprobs or ()) > MARGIN
        assert len(set(result.token_ids)) >= 12
    return [result.token_ids for result in results]


@pytest.fixture(scope="module")
def served(qwen: Qwen) -> Iterator[Running]:
    with running(Engine(qwen), qwen) as server:
        yield server


def tokens(qwen: Qwen, server: Running, prompt: list[int], *, stream: bool) -> list[str]:
    """The tokens of a completion, as its log-probabilities name them."""
    assert qwen.tokenizer is not None
    asked = {"model": "pocket", "prompt": prompt, "temperature": 0, "max_tokens": LENGTH, "ignore_eos": True}
    if not stream:
        told = server.ask("/v1/completions", {**asked, "logprobs": 0})[2]
        return told["choices"][0]["logprobs"]["tokens"]
    events = server.events("/v1/completions", {**asked, "logprobs": 0})
    choices = [json.loads(event[6:])["choices"][0] for event in events if event.startswith("data: {")]
    return [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["tokens"]]


def words(qwen: Qwen, ids: list[int]) -> list[str]:
    """As a completion tells them: the text of a token, or its bytes where they are no whole characters."""
    assert qwen.tokenizer is not None
    texts = [(id, qwen.tokenizer.decode([id])) for id in ids]
    return [
        text
        if "\ufffd" not in text
        else "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes(qwen, id))
        for id, text in texts
    ]


def token_bytes(qwen: Qwen, id: int) -> bytes:
    assert qwen.tokenizer is not None
    return qwen.tokenizer.token_bytes(id)


def test_generate_equals_the_engine_among_strangers(
    qwen: Qwen, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    rows = [qwen.intake.text(prompt, PARAMS) for prompt in prompts]
    assert [result.token_ids for result in Engine(qwen).run(rows)] == expected


@pytest.mark.parametrize("stream", [False, True])
def test_http_equals_generate_alone(
    qwen: Qwen, served: Running, prompts: Any, expected: Any, stream: bool
) -> None:
    for number in (0, 1, 2):
        found = tokens(qwen, served, prompts[number], stream=stream)
        assert found == words(qwen, expected[number])


def test_http_equals_generate_among_strangers_streamed_and_not(
    qwen: Qwen, served: Running, prompts: Any, expected: Any
) -> None:
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        found[number] = tokens(qwen, served, prompts[number], stream=number % 2 == 0)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(STRANGERS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(STRANGERS + 1)] == [words(qwen, ids) for ids in expected]
    now = served.engine.statistics()
    assert now.pages_used == 0 and now.steps < LENGTH * (STRANGERS + 1), "they ran together"


def test_a_chat_over_http_equals_the_chat_in_python(qwen: Qwen, served: Running) -> None:
    message = {"role": "user", "content": "What is 3 + 4?"}
    here = qwen.chat([message], temperature=0, max_tokens=LENGTH)
    asked = {"model": "pocket", "messages": [message], "temperature": 0, "max_tokens": LENGTH}
    told = served.ask("/v1/chat/completions", asked)[2]["choices"][0]["message"]
    assert (told["content"], told.get("reasoning_content")) == (here.content, here.reasoning)
