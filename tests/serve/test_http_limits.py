"""What one client may hold on to and ask for: seconds of a connection, connections, tokens of a prompt."""

import asyncio
import gc
import http.client
import json
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from running import Client, Running, Watched, running, wait_for

from pureqwen import Qwen, SamplingParams, Tokenizer
from pureqwen.config import ServeConfig
from pureqwen.garbage import uncollected
from pureqwen.serve.engine import Engine
from pureqwen.serve.prepare import check_prompts
from pureqwen.serve.protocol import body, chat, messages
from pureqwen.serve.protocol.ask import Ask
from pureqwen.serve.protocol.completion_answer import CompletionAnswer
from pureqwen.serve.server import FILES, tuned

CHAT, TEXT, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
HI: Any = [{"role": "user", "content": "Hi"}]
PATIENCE = 1.0  # seconds: a machine that does other things too needs some to send a head


@pytest.fixture(scope="module")
def impatient(pocket: Qwen) -> Iterator[Running]:
    with running(Watched(pocket), pocket, ServeConfig(head_seconds=PATIENCE)) as server:
        yield server


def opened(server: Running, data: bytes = b"") -> socket.socket:
    link = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    link.sendall(data)
    return link


def rest(link: socket.socket) -> bytes:
    """What comes until the server closes; an error where it does not."""
    found = b""
    with link:
        try:
            while more := link.recv(65536):
                found += more
        except ConnectionResetError:
            pass
    return found


def test_half_a_head_is_not_waited_for_and_a_stream_beside_it_goes_on(impatient: Running) -> None:
    """Slowloris: a few such clients, and nobody else gets in."""
    engine = impatient.engine
    engine.pause = 0.01
    fields = {"max_tokens": 400, "ignore_eos": True, "stream_options": {"include_usage": True}}
    stream = Client(impatient, CHAT, {"model": "pocket", "messages": HI, "stream": True, **fields})
    stream.until(b"reasoning_content")
    silent, half = opened(impatient), opened(impatient, b"POST /v1/messages HTTP/1.1\r\nHost: local")
    again = opened(impatient, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answered = b""
    while b'{"status":"ok"}' not in answered:  # head and body may come apart
        answered += again.recv(65536)
    assert answered.startswith(b"HTTP/1.1 200")
    again.sendall(b"GET /health HTTP/1.1\r\n")
    time.sleep(PATIENCE / 2)
    for link in (half, again):
        link.sendall(b"h")  # a byte now and then is no head
    for link in (half, again):
        told = rest(link)
        assert told.startswith(b"HTTP/1.1 408") and b'"slow_head"' in told, told
    assert rest(silent) == b"", "who asks nothing is told nothing"
    assert engine.statistics().running == 1
    engine.pause = 0.0
    assert b'"completion_tokens":400' in stream.until(b"data: [DONE]")
    stream.close()
    assert 'errors_total{kind="slow_head"} 2.0' in impatient.ask("/metrics")[2]


def test_a_client_that_is_slow_but_gets_on_is_served(impatient: Running) -> None:
    body = json.dumps({"model": "pocket", "messages": HI, "max_tokens": 2}).encode()
    head = (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    sent = head % (CHAT.encode(), len(body))
    with opened(impatient) as link:
        for piece in (sent[:9], sent[9:40], sent[40:], body[:5]):
            link.sendall(piece)
            time.sleep(0.05)
        time.sleep(PATIENCE * 1.2)  # for the body there is another bound
        link.sendall(body[5:])
        assert link.recv(65536).startswith(b"HTTP/1.1 200")


def test_the_rest_of_a_body_that_nobody_reads_is_not_waited_for(impatient: Running) -> None:
    """It is answered at once, and whoever then sends a byte now and then was never idle."""
    link = opened(impatient, b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    assert link.recv(65536).startswith(b"HTTP/1.1 404")
    link.sendall(b"a")
    rest(link)


def test_a_connection_without_a_request_ends_after_a_while(
    pocket: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pureqwen.serve.server.KEEP_ALIVE", PATIENCE)
    with running(Engine(pocket), pocket) as server:
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for _ in range(2):
            link.request("GET", "/health")
            answer = link.getresponse()
            assert answer.status == 200 and answer.read()
        assert link.sock is not None and link.sock.recv(1) == b""
        link.close()
        assert server.server.config.timeout_keep_alive == PATIENCE, "uvicorn's own would have closed it too"


def test_more_connections_than_there_may_be_get_a_503_until_others_leave(
    pocket: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pureqwen.serve.server.CONNECTIONS", 3)
    with running(Engine(pocket), pocket) as server:
        connections = server.server.server_state.connections
        assert server.chat("Hi", max_tokens=1)[0] == 200
        links = [opened(server) for _ in range(2)]
        wait_for(lambda: len(connections) == 2)
        for path in (CHAT, MESSAGES):
            status, headers, told = server.ask(path, {"model": "pocket", "messages": HI, "max_tokens": 1})
            assert status == 503 and int(headers["retry-after"]) > 0 and headers["connection"] == "close"
            assert "too many connections" in told["error"]["message"]
        for path in ("/health", "/ready", "/metrics"):
            assert server.ask(path)[0] == 200, "who watches sees a server that lives"
        for link in links:
            link.close()
        wait_for(lambda: not connections)
        assert server.chat("Hi", max_tokens=1)[0] == 200


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is Unix's")
def test_a_process_that_serves_may_have_more_files_open_and_its_threads_hand_over_soon() -> None:
    import resource

    before, interval = resource.getrlimit(resource.RLIMIT_NOFILE), sys.getswitchinterval()
    few = (min(512, before[1]), before[1])
    wanted = FILES if before[1] == resource.RLIM_INFINITY else min(FILES, before[1])
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, few)
        sys.setswitchinterval(0.005)
        with tuned():
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == wanted > few[0]
            assert sys.getswitchinterval() <= 0.001
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == few and sys.getswitchinterval() == 0.005
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        sys.setswitchinterval(interval)


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_a_process_that_serves_looks_for_cycles_only_in_what_is_new() -> None:
    """A whole collection took a quarter of a second of each stream; among what tests leave, 1.3 seconds."""
    gc.unfreeze()  # what the process of these tests has left alone
    try:
        dead = Cycle()
        seen = weakref.ref(dead)
        del dead
        with tuned():
            assert seen() is None, "what is dead already is not kept for ever"
            assert gc.get_freeze_count() > 10_000 > len(gc.get_objects())
            with tuned():
                pass
            assert gc.get_freeze_count() > 10_000, "whoever left things alone before decides when that ends"
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()


def test_idle_connections_live_longer_than_clients_keep_theirs(served: Running) -> None:
    assert served.server.config.timeout_keep_alive == 75


# ---- tokens of a prompt ----


@pytest.fixture(scope="module")
def strict(pocket: Qwen) -> Iterator[Running]:
    with running(Engine(pocket), pocket, ServeConfig(max_prompt=40)) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (TEXT, {"prompt": [5] * 41}),
        (TEXT, {"prompt": ["Hi", "3 + 4 = " * 20]}),
        (TEXT, {"prompt": "hello " * 100_000}),
        (CHAT, {"messages": [{"role": "user", "content": "3 + 4 = " * 20}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": "3 + 4 = " * 20}]}),
    ],
    ids=["ids", "texts", "bytes", "chat", "messages"],
)
def test_a_prompt_of_more_tokens_than_allowed_is_refused_with_the_limit(
    strict: Running, path: str, fields: Any
) -> None:
    status, _, told = strict.ask(path, {"model": "pocket", "max_tokens": 1, **fields})
    assert status == 400 and "at most 40 tokens of a prompt (--max-prompt)" in told["error"]["message"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [(TEXT, {"prompt": [5] * 40}), (TEXT, {"prompt": "Hi"}), (CHAT, {"messages": HI})],
    ids=["ids", "text", "chat"],
)
def test_a_prompt_of_as_many_tokens_as_allowed_is_answered(strict: Running, path: str, fields: Any) -> None:
    assert strict.ask(path, {"model": "pocket", "max_tokens": 1, **fields})[0] == 200


def test_a_text_that_can_t_have_so_few_tokens_is_refused_before_it_is_encoded(
    strict: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pureqwen.serve.http.make_rows", lambda *arguments: pytest.fail("it was encoded"))
    for prompt in ("hello " * 10_000, [5] * 41):
        assert strict.ask(TEXT, {"model": "pocket", "prompt": prompt})[0] == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "hello " * 30_000}),
        ("/tokenize", {"messages": [{"role": "user", "content": "hello " * 30_000}]}),
        ("/detokenize", {"tokens": [5] * 60_000}),
        ("/v1/messages/count_tokens", {"model": "pocket", "messages": HI, "system": "hello " * 30_000}),
    ],
    ids=["text", "chat", "ids", "messages"],
)
def test_what_only_counts_tokens_refuses_many_contexts_before_it_counts(
    served: Running, monkeypatch: pytest.MonkeyPatch, path: str, body: Any
) -> None:
    monkeypatch.setattr("pureqwen.serve.http.prompt_ids", lambda *arguments: pytest.fail("it was counted"))
    monkeypatch.setattr(Tokenizer, "decode", lambda *arguments: pytest.fail("it was decoded"))
    status, _, told = served.ask(path, body)
    assert status == 413 and "32 for each token of the context" in told["error"]["message"]


def test_the_tokens_of_a_prompt_that_is_too_long_are_counted(served: Running, pocket: Qwen) -> None:
    messages = [{"role": "user", "content": "hello " * pocket.context * 5}]
    status, _, told = served.ask("/v1/messages/count_tokens", {"model": "pocket", "messages": messages})
    assert status == 200 and told["input_tokens"] > pocket.context * 4


LONG = "hello " * 100_000


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (TEXT, {"prompt": LONG}),
        (CHAT, {"messages": [*HI, {"role": "assistant", "content": LONG}, *HI]}),
        (CHAT, {"messages": [*HI, {"role": "assistant", "content": LONG[:6000]}] * 100 + HI}),
        (
            CHAT,
            {"messages": HI, "tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]},
        ),
        (MESSAGES, {"messages": HI, "system": LONG}),
    ],
    ids=["text", "answer", "answers", "tools", "system"],
)
def test_of_a_prompt_that_can_t_fit_no_more_is_encoded_than_a_few_contexts(
    served: Running, pocket: Qwen, monkeypatch: pytest.MonkeyPatch, path: str, fields: Any
) -> None:
    """All of it was: the time before a refusal grew with the body."""
    real, sizes = Tokenizer.encode, list[int]()

    def encode(self: Tokenizer, text: str, allow_special: bool = False) -> list[int]:
        sizes.append(len(text))
        return real(self, text, allow_special)

    monkeypatch.setattr(Tokenizer, "encode", encode)
    status, _, told = served.ask(path, {"model": "pocket", "max_tokens": 1, **fields})
    assert status == 400 and "at least" in told["error"]["message"], told
    assert f"the context holds {pocket.context}" in told["error"]["message"]
    assert sum(sizes) <= 16 * pocket.context


def test_a_prompt_that_fits_is_taken_however_long_its_tokens_are(pocket: Qwen) -> None:
    tokenizer = pocket.tokenizer
    assert tokenizer is not None
    size = {id: len(tokenizer.token_bytes(id)) for id in range(900)}
    single = [id for id in size if tokenizer.encode(tokenizer.decode([id]) * 2) == [id, id]]
    id = max(single, key=lambda id: size[id])
    count = pocket.context - 1
    text = tokenizer.decode([id] * count)
    assert len(text) > 4 * count
    ask = Ask(model=None, params=SamplingParams(), prompts=(text,))
    check_prompts(ask, context=pocket.context, most=None, tokenizer=tokenizer)
    assert len(pocket.intake.ids(text)) == count


# ---- what the event loop does not do ----


def is_aside() -> bool:
    """Whether this is no event loop's thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (TEXT, {"prompt": [5] * 2000, "echo": True, "max_tokens": 1}),
        (TEXT, {"prompt": [[5] * 2000, [6] * 2000], "echo": True, "max_tokens": 1, "stream": True}),
        ("/detokenize", {"tokens": [5] * 2000}),
    ],
    ids=["whole", "stream", "detokenize"],
)
def test_long_prompts_are_decoded_beside_the_event_loop(
    served: Running, monkeypatch: pytest.MonkeyPatch, path: str, fields: Any
) -> None:
    real, found = Tokenizer.decode, list[bool]()

    def decode(self: Tokenizer, ids: Any, **options: Any) -> str:
        if len(ids) >= 2000:
            found.append(is_aside())
        return real(self, ids, **options)

    monkeypatch.setattr(Tokenizer, "decode", decode)
    assert served.ask(path, {"model": "pocket", **fields})[0] == 200
    assert found and all(found)


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_probabilities_of_a_long_prompt_are_written_beside_the_event_loop(
    served: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    real, found = CompletionAnswer._logprobs, list[bool]()

    def logprobs(self: CompletionAnswer, index: int, told: Any) -> Any:
        if len(told) >= 500:
            found.append(is_aside())
        return real(self, index, told)

    monkeypatch.setattr(CompletionAnswer, "_logprobs", logprobs)
    asked = {"model": "pocket", "prompt": [5] * 500, "echo": True, "max_tokens": 1, "logprobs": 2}
    assert served.ask(TEXT, {**asked, "stream": stream})[0] == 200
    assert found == [True]


# ---- many of what is small ----


def matched(path: str, count: int) -> float:
    """Seconds of this thread in which the results of so many calls of one message are matched to them."""
    ids = [f"call_{number:08}" for number in range(count)]
    if path == CHAT:
        calls = [{"id": id, "function": {"name": "f", "arguments": "{}"}} for id in ids]
        results = [{"role": "tool", "tool_call_id": id, "content": "7"} for id in reversed(ids)]
        told: Any = [*HI, {"role": "assistant", "content": None, "tool_calls": calls}, *results]
        request, _ = body.read(chat.ChatRequest, {"model": "pocket", "messages": told}, lenient=False)
        began = time.thread_time()
        asked = chat.chat_ask(request, ServeConfig())
    else:
        uses = [{"type": "tool_use", "id": id, "name": "f", "input": {}} for id in ids]
        blocks = [{"type": "tool_result", "tool_use_id": id, "content": "7"} for id in reversed(ids)]
        turns = [*HI, {"role": "assistant", "content": uses}, {"role": "user", "content": blocks}]
        fields = {"model": "pocket", "max_tokens": 9, "messages": turns}
        asking, _ = body.read(messages.MessagesRequest, fields, lenient=False)
        began = time.thread_time()
        asked = messages.messages_ask(asking, ServeConfig())
    took = time.thread_time() - began
    assert len(asked.messages) == count + 2
    return took


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_many_results_of_tools_cost_no_more_each_than_a_few(path: str) -> None:
    """Each was looked for among all calls: a body of a few megabytes took a minute of a thread."""
    with uncollected():  # which would look through all that other tests have left
        few, many = min(matched(path, 500) for _ in range(3)), matched(path, 16_000)
    assert many < 32 * few * 5, (few, many)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "3 + 4 = " * 20}], "reasoning_effort": "low"}),
        (CHAT, {"messages": [{"role": "user", "content": "3 + 4 = " * 20}]}),
        (TEXT, {"prompt": "3 + 4 = " * 20, "echo": True}),
    ],
    ids=["effort", "chat", "text"],
)
def test_a_prompt_is_encoded_once_for_all_its_answers(
    served: Running, monkeypatch: pytest.MonkeyPatch, path: str, fields: Any
) -> None:
    """The template ran, and the text was encoded, for each answer, and once more for an effort."""
    real, texts = Tokenizer.encode, list[str]()

    def encode(self: Tokenizer, text: str, allow_special: bool = False) -> list[int]:
        texts.append(text)
        return real(self, text, allow_special)

    monkeypatch.setattr(Tokenizer, "encode", encode)
    asked = {"model": "pocket", "max_tokens": 40, "temperature": 0.9, "seed": 5, **fields}
    alone = served.ask(path, {**asked, "n": 1})[2]
    assert sum("3 + 4 = " in text for text in texts) == 1
    status, _, told = served.ask(path, {**asked, "n": 16})
    assert status == 200 and sum("3 + 4 = " in text for text in texts) == 2
    assert [one["index"] for one in told["choices"]] == [*range(16)]
    assert told["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"] > 20
