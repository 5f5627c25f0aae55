"""The routes beside the answers: tokens, health, figures, the document; and what every route refuses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import Running, running

from pureqwen import EngineConfig, Qwen, SamplingParams
from pureqwen.config import ServeConfig
from pureqwen.serve.engine import Engine

HI: Any = [{"role": "user", "content": "Hi <|im_end|>"}]


def test_a_text_becomes_ids_and_ids_a_text(served: Running, pocket: Qwen) -> None:
    assert pocket.tokenizer is not None
    status, _, told = served.ask("/tokenize", {"prompt": "Grüße<|im_end|>", "return_token_strs": True})
    assert status == 200 and told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["tokens"] == pocket.tokenizer.encode("Grüße<|im_end|>", allow_special=True)
    assert told["token_strs"][-1] == "<|im_end|>" and told["max_model_len"] == pocket.context
    back = served.ask("/detokenize", {"tokens": told["tokens"]})[2]
    assert back == {"prompt": "Grüße<|im_end|>"}


def test_a_conversation_s_ids_are_those_that_a_chat_reads(served: Running, pocket: Qwen) -> None:
    told = served.ask("/tokenize", {"messages": HI, "enable_thinking": False})[2]
    assert told["tokens"] == pocket.intake.chat(HI, None, False, SamplingParams()).ids
    usage = served.chat("Hi <|im_end|>", max_tokens=1, enable_thinking=False)[2]["usage"]
    assert usage["prompt_tokens"] == told["count"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": True}, "add_special_tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1], "model": "gpt-9"}, "model"),
        ("/tokenize", {"prompt": "a", "model": "gpt-9"}, "model"),
    ],
)
def test_wrong_ids_and_fields_are_named(served: Running, path: str, body: Any, param: str) -> None:
    status, _, told = served.ask(path, body)
    assert status in (400, 404) and told["error"]["param"] == param


def test_the_server_lives_and_is_ready(served: Running) -> None:
    assert served.ask("/health")[::2] == (200, {"status": "ok"})
    assert served.ask("/ready")[::2] == (200, {"status": "ready"})


def test_a_chat_that_names_no_max_tokens_is_answered_by_a_server_with_a_small_cache(pocket: Qwen) -> None:
    """It was a 400: all the rest of the context was asked of a cache that does not hold it. An effort, which
    is a share of the room, leaves half of it for the answer; what can't fit is named.
    """
    with running(Engine(pocket, config=EngineConfig(cache_tokens=128)), pocket) as server:
        assert server.ask("/v1/models")[2]["data"][0]["max_model_len"] == 129
        for fields in ({}, {"max_tokens": 4000}):
            status, _, told = server.chat(temperature=0, **fields)
            assert status == 200, told
            assert told["choices"][0]["finish_reason"] == "length" and told["usage"]["total_tokens"] == 129
        [choice] = server.chat(temperature=0, reasoning_effort="high")[2]["choices"]
        assert choice["finish_reason"] == "stop" and choice["message"]["content"]
        status, _, told = server.chat("why " * 200)
        assert (status, told["error"]["code"]) == (400, "context_length_exceeded")
        assert "the cache holds 128" in told["error"]["message"]


def figures(server: Running) -> dict[str, float]:
    status, headers, text = server.ask("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name
        + "".join(f",{value}" for name, value in sample.labels.items() if name != "le"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_count_requests_tokens_pages_times_and_errors(served: Running) -> None:
    before = figures(served)
    usage = served.chat("What is 3 + 4?", temperature=0)[2]["usage"]
    served.chat("Hi", temperature=-1)
    after = figures(served)

    def grew(name: str) -> float:
        return after[f"pureqwen_{name}"] - before.get(f"pureqwen_{name}", 0.0)

    assert grew("requests_total,/v1/chat/completions,200") == 1
    assert grew("requests_total,/v1/chat/completions,400") == 1
    assert grew("errors_total,invalid_value") == 1
    assert grew("prompt_tokens_total") == usage["prompt_tokens"]
    assert grew("generated_tokens_total") == usage["completion_tokens"]
    assert grew("time_to_first_token_seconds_count") == 1
    assert grew("inter_token_seconds_count") == usage["completion_tokens"] - 1
    assert after["pureqwen_pages"] > 0 and after["pureqwen_pages_used"] == 0
    assert after["pureqwen_queue_requests"] == after["pureqwen_batch_requests"] == 0
    assert 0 <= after["pureqwen_hit_rate"] <= 1 and after["pureqwen_healthy"] == 1
    assert grew("steps_total") > 0 and after["pureqwen_step_failures_total"] == 0


def test_a_path_that_nobody_knows_makes_no_figure_of_its_own(served: Running) -> None:
    for path in ("/secret-1", "/secret-2"):
        assert served.ask(path)[0] == 404
    assert "secret" not in served.ask("/metrics")[2]


def test_the_document_is_served_and_names_every_route(served: Running) -> None:
    told = served.ask("/openapi.json")[2]
    app: Any = served.server.config.app
    routes = {route.path.replace(":path", "") for route in app.routes}
    assert routes == set(told["paths"])


def test_the_document_is_not_made_anew_in_the_event_loop_for_whoever_asks(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pureqwen.serve.http.document", lambda *given: pytest.fail("it was made"))
    status, headers, told = served.ask("/openapi.json")
    assert status == 200 and headers["content-type"] == "application/json" and told["openapi"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/chat", None, {}, 404),
        ("/v1/chat/completions/", None, {}, 404),
        ("/v1/chat/completions", None, {}, 405),
        ("/health", b"", {}, 405),
        ("/v1/chat/completions", b"{}", {"Content_Type": "text/plain"}, 415),
        ("/v1/chat/completions", b"", {}, 400),
        ("/v1/chat/completions", b"[" * 100_000, {}, 400),
        ("/v1/chat/completions", b" " * (4 * 1024 * 1024 + 1), {}, 413),
        ("/v1/messages", b" " * (4 * 1024 * 1024 + 1), {}, 413),
    ],
    ids=range(9),
)
def test_what_is_no_request_has_an_error_in_the_protocol_s_shape(
    served: Running, path: str, body: Any, headers: Any, status: int
) -> None:
    found, _, told = served.ask(path, body, **headers)
    assert found == status and told["error"]["message"]
    assert ("code" in told["error"]) == (not path.startswith("/v1/messages"))


@pytest.fixture(scope="module")
def lenient(pocket: Qwen) -> Iterator[Running]:
    with running(Engine(pocket), pocket, ServeConfig(lenient=True, name="other", thinking=False)) as server:
        yield server


def test_a_lenient_server_answers_and_names_what_it_left_out(lenient: Running) -> None:
    status, headers, told = lenient.chat("Hi", model="other", best_of=2, audio={"voice": "a"}, max_tokens=3)
    assert status == 200 and headers["x-ignored-fields"] == "best_of, audio"
    assert told["model"] == "other"
    assert "x-ignored-fields" not in lenient.chat("Hi", model="other", max_tokens=3)[1]
    assert lenient.chat("Hi", model="other", max_tokens=3, temperature=-1, best_of=2)[0] == 400
    status, headers, _ = lenient.ask(
        "/v1/completions", {"model": "other", "prompt": "a", "a\u00e9": 1, "stream": True, "max_tokens": 1}
    )
    assert status == 200 and headers["x-ignored-fields"] == "a?", "a header is ASCII"


def test_a_server_that_does_not_think_by_itself_thinks_when_asked(lenient: Running) -> None:
    question = {"model": "other", "temperature": 0}
    quiet = lenient.chat("What is 3 + 4?", **question)[2]["choices"][0]["message"]
    loud = lenient.chat("What is 3 + 4?", enable_thinking=True, **question)[2]["choices"][0]["message"]
    assert "reasoning_content" not in quiet and loud["reasoning_content"]
    assert json.dumps(quiet["content"]) and "7" in loud["content"]


def test_what_the_page_shows_of_the_clients_works(
    served: Running, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert "http://127.0.0.1:8000" in block
        exec(compile(block.replace("http://127.0.0.1:8000", served.url), "docs/serve.md", "exec"), {})
        assert "29842" in capsys.readouterr().out


def test_what_the_page_shows_of_curl_works(served: Running, page: str) -> None:
    (command,) = re.findall(r"    curl (\S+) -H '([^']+)' \\\n      -d '([^']+)'", page)
    url, header, body = command
    name, _, value = header.partition(": ")
    status, _, told = served.ask(url.removeprefix("http://127.0.0.1:8000"), body.encode(), **{name: value})
    assert status == 200 and "29842" in told["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
