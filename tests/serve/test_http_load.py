"""When it gets hard: full queues, clients that leave or do not read, steps that crash, the server's end."""

import json
import signal
import socket
import threading
import time
from typing import Any

import pytest
from running import Client, Running, Upload, Watched, running, started, wait_for

from pureqwen import EngineConfig, Qwen
from pureqwen.config import ServeConfig
from pureqwen.serve.engine import Engine
from pureqwen.serve.server import listen

HI: Any = {"model": "pocket", "messages": [{"role": "user", "content": "Hi"}]}
LONG: Any = {**HI, "max_tokens": 3000, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
CHAT, TEXT, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"


def idle(engine: Any) -> bool:
    now = engine.statistics()
    return bool(now.waiting == now.running == now.pages_used == 0)


def test_a_full_queue_says_when_to_come_again(pocket: Qwen) -> None:
    engine = Engine(pocket, config=EngineConfig(max_queue=1, max_batch=1))
    with running(engine, pocket) as server:
        first = Client(server, CHAT, {**LONG, "stream": True})
        wait_for(lambda: engine.statistics().running == 1)
        second = Client(server, CHAT, {**LONG, "stream": True})
        wait_for(lambda: engine.statistics().waiting == 1)
        for path in (CHAT, MESSAGES):
            status, headers, told = server.ask(path, {**HI, "max_tokens": 5})
            assert status == 429 and int(headers["retry-after"]) > 0
            assert told["error"]["type"] == "rate_limit_error"
        assert server.ask("/ready")[0] == 200
        first.close()
        assert b"chat.completion.chunk" in second.until(b"reasoning_content"), "its turn comes"
        second.close()
        wait_for(lambda: idle(engine))


def test_all_answers_of_a_request_are_queued_or_none(pocket: Qwen) -> None:
    engine = Engine(pocket, config=EngineConfig(max_queue=2, max_batch=1))
    with running(engine, pocket) as server:
        blocker = Client(server, CHAT, {**LONG, "stream": True})
        wait_for(lambda: engine.statistics().running == 1)
        assert server.ask(CHAT, {**HI, "n": 3, "max_tokens": 5})[0] == 429
        wait_for(lambda: engine.statistics().waiting == 0)
        blocker.close()


def test_slow_uploads_take_no_place_in_the_queue_of_an_idle_server(pocket: Qwen) -> None:
    """A few sockets with a head and a byte each: everybody else got a 429 until they were cut off."""
    engine = Engine(pocket, config=EngineConfig(max_queue=1, max_batch=1))
    with running(engine, pocket) as server:
        links = [Upload(server, 1000) for _ in range(8)]
        for link in links:
            link.send(1)
        wait_for(lambda: len(server.server.server_state.tasks) == len(links))
        assert server.chat("Hi", max_tokens=2)[0] == 200
        for link in links:
            link.close()


def test_long_uploads_have_a_bound_of_their_own_and_short_ones_pass(
    pocket: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pureqwen.serve.uploads.HELD", 1)
    with running(Engine(pocket), pocket, ServeConfig(max_body=200_000)) as server:
        uploads = server.server._service._uploads
        first, second = (Upload(server, 200_000) for _ in range(2))
        first.send(199_000)
        wait_for(lambda: uploads._held > 130_000)
        second.send(199_000)
        assert second.rest().startswith(b"HTTP/1.1 429") and b"retry-after" in second.got.lower()
        assert server.chat("Hi", max_tokens=2)[0] == 200, "what is short is let in"
        for one in (first, second):
            one.close()
        wait_for(lambda: uploads._held == 0)
        assert server.chat("a" * 100_000, max_tokens=2)[2]["error"]["code"] == "context_length_exceeded"


def test_requests_that_come_together_find_the_places_of_an_idle_batch(
    pocket: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a queue of one the second of two that were prepared at once got a 429, and nobody was computed."""
    from pureqwen.serve import http

    real, held, begun = http.make_rows, threading.Event(), threading.Semaphore(0)

    def slow(*given: Any) -> Any:
        begun.release()
        assert held.wait(30)
        return real(*given)

    monkeypatch.setattr(http, "make_rows", slow)
    engine, told = Engine(pocket, config=EngineConfig(max_queue=1, max_batch=3)), list[int]()
    with running(engine, pocket) as server:
        ask = lambda: told.append(server.chat("Hi", max_tokens=2)[0])  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(4)]
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                assert begun.acquire(timeout=20)
            assert server.chat("Hi")[0] == 429, "one more than are computed and wait"
        finally:
            held.set()
            for thread in threads:
                thread.join()
    assert told == [200] * 4


def test_more_answers_than_there_is_ever_room_for_are_no_reason_to_come_again(pocket: Qwen) -> None:
    engine = Engine(pocket, config=EngineConfig(max_queue=1, max_batch=1))
    with running(engine, pocket) as server:
        status, headers, told = server.chat("Hi", n=3, max_tokens=2)
        assert status == 400 and told["error"]["param"] == "n" and "retry-after" not in headers
        assert server.chat("Hi", n=2, max_tokens=2)[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_pages_within_a_step(served: Running, stream: bool) -> None:
    engine = served.engine
    client = Client(served, CHAT, {**LONG, "stream": stream, "n": 2})
    wait_for(lambda: engine.statistics().running == 2 and engine.statistics().pages_used > 2)
    client.close()
    wait_for(lambda: idle(engine))
    assert served.ask("/ready")[0] == 200


def test_a_client_that_leaves_before_its_body_came_leaves_nothing(served: Running) -> None:
    for head in (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n", b"GET", b""):
        with socket.create_connection(("127.0.0.1", served.port)) as link:
            link.sendall(head)
    body = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", served.port)) as link:
        link.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + body)
    wait_for(lambda: served.server._service._entering == 0)
    assert served.chat("Hi", max_tokens=3)[0] == 200


def test_a_reader_that_takes_nothing_stalls_nobody_and_is_cut_off(pocket: Qwen) -> None:
    config = ServeConfig(stall_seconds=0.5)
    engine = Engine(pocket)
    with running(engine, pocket, config, buffer=4096) as server:
        server.chat("Hi", max_tokens=3)
        slow = Client(server, CHAT, {**LONG, "stream": True, "n": 4}, buffer=4096)
        wait_for(lambda: engine.statistics().running > 0)
        began = time.monotonic()
        assert server.chat("What is 3 + 4?", temperature=0)[0] == 200
        assert time.monotonic() - began < 10
        wait_for(lambda: 'errors_total{kind="stalled"} 1.0' in server.ask("/metrics")[2])
        wait_for(lambda: idle(engine))
        assert b"[DONE]" not in slow.rest()
        slow.close()


def test_a_body_that_comes_too_slowly_is_not_waited_for(pocket: Qwen) -> None:
    with running(Engine(pocket), pocket, ServeConfig(stall_seconds=0.2)) as server:
        link = socket.create_connection(("127.0.0.1", server.port))
        head = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with link:
            link.sendall(head + b"Content-Length: 9\r\n\r\n{")
            assert link.recv(4096).startswith(b"HTTP/1.1 408")


def test_silence_is_filled_with_comments_that_clients_skip(pocket: Qwen) -> None:
    engine = Watched(pocket)
    engine.pause = 0.15
    with running(engine, pocket, ServeConfig(keepalive_seconds=0.05)) as server:
        events = server.events(CHAT, {**HI, "max_tokens": 2})
    assert ": keep-alive" in events and events[-1] == "data: [DONE]"


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_takes_too_long_ends_with_an_error(pocket: Qwen, stream: bool) -> None:
    engine = Watched(pocket)
    engine.pause = 0.3
    with running(engine, pocket, ServeConfig(request_seconds=0.6)) as server:
        if stream:
            *_, last = server.events(CHAT, {**HI, "max_tokens": 50})
            error = json.loads(last.removeprefix("data: "))["error"]
        else:
            status, headers, told = server.chat(max_tokens=50)
            assert status == 504 and headers["x-should-retry"] == "false"
            error = told["error"]
        assert error["code"] == "request_timeout" and "0.6 s" in error["message"]
        wait_for(lambda: len(engine.aborted) == 1 and idle(engine))


# ---- a step that crashes ----


class Trap:
    """Stands before the engine's runner: crashes the steps that it is told to."""

    def __init__(self, engine: Engine) -> None:
        self.runner, self.armed = engine._runner, False
        engine._runner = self  # type: ignore[assignment]

    def __call__(self, plan: Any) -> Any:
        if self.armed:
            self.armed = False
            raise RuntimeError("a secret of the machine")
        return self.runner(plan)


@pytest.mark.parametrize("path", [CHAT, TEXT, MESSAGES])
@pytest.mark.parametrize("stream", [True, False])
def test_a_crashed_step_is_an_error_of_its_requests_only(pocket: Qwen, path: str, stream: bool) -> None:
    engine = Engine(pocket)
    trap = Trap(engine)
    body = {"model": "pocket", "max_tokens": 5} | ({"prompt": "Hi"} if path == TEXT else HI)
    with running(engine, pocket) as server:
        before = server.ask(path, body)
        trap.armed = True
        if stream:
            *_, last = server.events(path, body)
            told = json.loads(last.partition("data: ")[2])
            assert last.startswith("event: error") == (path == MESSAGES)
        else:
            status, _, told = server.ask(path, body)
            assert status == 500
        assert told["error"]["type"] == ("api_error" if path == MESSAGES else "server_error")
        assert "secret" not in json.dumps(told)
        assert before[0] == server.ask(path, body)[0] == 200, "the next one is answered"
        assert server.ask("/ready")[0] == 200 and idle(engine)
        assert engine.statistics().failures == 1


@pytest.mark.parametrize(("path", "writer"), [(CHAT, "ChatAnswer"), (MESSAGES, "MessagesAnswer")])
@pytest.mark.parametrize("where", ["begin", "piece", "end"])
def test_a_mistake_of_ours_in_a_stream_ends_it_with_an_error_event(
    pocket: Qwen, monkeypatch: pytest.MonkeyPatch, path: str, writer: str, where: str
) -> None:
    """It ended without a word: a client took what had come for the whole of the answer."""
    from pureqwen.serve import http

    def broken(*given: Any) -> Any:
        raise RuntimeError("a secret of the machine")

    monkeypatch.setattr(getattr(http, writer), where, broken)
    engine = Engine(pocket)
    with running(engine, pocket) as server:
        *_, last = server.events(path, {**HI, "max_tokens": 5})
        assert last.startswith("event: error") == (path == MESSAGES)
        told = json.loads(last.partition("data: ")[2])
        assert told["error"]["type"] == ("api_error" if path == MESSAGES else "server_error")
        assert "secret" not in last
        assert 'errors_total{kind="internal"} 1.0' in server.ask("/metrics")[2]
        wait_for(lambda: idle(engine))


def test_an_engine_that_died_is_not_ready_and_its_requests_have_an_answer(pocket: Qwen) -> None:
    engine = Engine(pocket)
    with running(engine, pocket) as server:
        engine._scheduler.plan = None  # type: ignore[assignment,method-assign]
        assert server.chat("Hi")[0] == 500
        wait_for(lambda: not engine.healthy)
        assert server.ask("/ready")[0] == server.ask("/health")[0] == 503
        assert server.chat("Hi")[0] == 503
        server.server._service.stopping = True
        assert server.ask("/ready")[::2] == (503, {"status": "stopping"})
        assert server.ask("/health")[0] == 200, "whoever stops needs not be restarted"


# ---- the end ----


def test_a_server_that_stops_lets_answers_end(pocket: Qwen) -> None:
    engine = Watched(pocket)
    engine.pause = 0.02
    with running(engine, pocket, drain=10) as server:
        client = Client(server, CHAT, {**HI, "max_tokens": 12, "stream": True})
        client.until(b"reasoning_content")
        server.server.should_exit = True
        assert client.until(b"data: [DONE]").count(b"finish_reason") > 5
        client.close()


@pytest.mark.parametrize(("path", "mark"), [(CHAT, b'"code":"stopping"'), (MESSAGES, b"event: error")])
def test_answers_that_do_not_end_in_time_end_with_an_error(pocket: Qwen, path: str, mark: bytes) -> None:
    engine = Watched(pocket)
    engine.pause = 0.02
    with running(engine, pocket, drain=0.1) as server:
        client = Client(server, path, {**HI, "max_tokens": 3000, "stream": True})
        client.until(b"delta")
        told: list[Any] = []
        whole = threading.Thread(target=lambda: told.append(server.chat(max_tokens=3000)))
        whole.start()
        wait_for(lambda: len(engine.salts) == 2)
        server.server.should_exit = True
        assert mark in client.rest() and b"[DONE]" not in client.got and b"message_stop" not in client.got
        whole.join()
        assert told[0][0] == 503 and "retry-after" in told[0][1]
        client.close()


def test_a_body_that_is_still_coming_does_not_hold_the_stop(pocket: Qwen) -> None:
    """Nothing that it could still say would be answered."""
    with (
        running(Watched(pocket), pocket, drain=30) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as link,
    ):
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        link.sendall(f"{head}Content-Length: 500\r\n\r\n{{".encode())
        wait_for(lambda: len(server.server._service._uploads._coming) == 1)
        began = time.monotonic()
        server.server.should_exit = True
        told = b""
        while more := link.recv(65536):
            told += more
        assert told.startswith(b"HTTP/1.1 503 ") and b"retry-after: 10" in told and b'"stopping"' in told
        assert time.monotonic() - began < 15


def test_a_whole_answer_that_is_cut_off_says_so_in_the_protocol_s_shape(pocket: Qwen) -> None:
    """The second signal: what is not streamed has said nothing yet."""
    engine = Watched(pocket)
    engine.pause = 0.02
    with running(engine, pocket, drain=60) as server:
        told: list[Any] = []
        whole = threading.Thread(target=lambda: told.append(server.chat(max_tokens=3000, ignore_eos=True)))
        whole.start()
        wait_for(lambda: len(engine.salts) == 1)
        server.server.should_exit = True
        time.sleep(0.3)
        server.server.force_exit = True
        whole.join(20)
        status, _, body = told[0]
        assert status == 503 and body["error"]["code"] == "stopping"


def test_a_port_in_use_is_told_in_words() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(ValueError, match="another --port"):
        first.listen()
        listen("127.0.0.1", first.getsockname()[1])
    with pytest.raises(ValueError, match="can't listen"):
        listen("no.such.host.invalid", 0)
    with pytest.raises(ValueError, match="from 0 to 65535"):
        listen("127.0.0.1", 65536 + 8000)


@pytest.mark.long
@pytest.mark.parametrize("twice", [False, True])
def test_sigterm_drains_and_a_second_signal_does_not(twice: bool) -> None:
    many = {"max_tokens": 3000 if twice else 300, "ignore_eos": True, "stream": True}
    with started("--drain", "60", "--log-json") as (process, port):
        client = Client(Running(port, None, None), CHAT, {**HI, **many})  # type: ignore[arg-type]
        client.until(b"reasoning_content")
        process.send_signal(signal.SIGTERM)
        if twice:
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
        assert (b"[DONE]" in client.rest()) is not twice
        assert process.wait(10) == 0
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr if line.startswith("{")]
        client.close()
    assert "stopping" in [line["event"] for line in lines]
    assert not [line for line in lines if "traceback" in line]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TEXT, {"prompt": "hello " * 650_000}),
        (TEXT, {"prompt": [5] * 100_000}),
        (CHAT, {"messages": [{"role": "user", "content": "hello " * 100_000}] * 6}),
    ],
    ids=["text", "ids", "chat"],
)
def test_a_prompt_that_can_t_fit_is_refused_before_it_is_encoded(
    served: Running, monkeypatch: pytest.MonkeyPatch, path: str, body: Any
) -> None:
    encoded: list[Any] = []
    monkeypatch.setattr("pureqwen.serve.http.make_rows", lambda *arguments: encoded.append(arguments))
    status, _, told = served.ask(path, {"model": "pocket", **body})
    assert status == 400 and told["error"]["code"] == "context_length_exceeded", told
    assert "the context holds" in told["error"]["message"] and not encoded


def test_a_short_chat_does_not_wait_for_long_prompts(served: Running) -> None:
    body = {"model": "pocket", "prompt": "hello " * 650_000, "max_tokens": 1}
    many = [threading.Thread(target=served.ask, args=(TEXT, body)) for _ in range(6)]
    for one in many:
        one.start()
    began = time.monotonic()
    status, _, _ = served.chat("Hi", max_tokens=2)
    took = time.monotonic() - began
    for one in many:
        one.join()
    assert status == 200 and took < 3.0


@pytest.mark.parametrize(("path", "name"), [(TEXT, "make_rows"), ("/tokenize", "prompt_ids")])
def test_what_is_short_does_not_queue_behind_what_is_prepared_for_long(
    served: Running, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    from pureqwen.serve import http

    real, held, begun = getattr(http, name), threading.Event(), threading.Semaphore(0)

    def slow(ask: Any, *rest: Any) -> Any:
        if len((ask.prompts or [""])[0]) > 1000:
            begun.release()
            assert held.wait(30)
        return real(ask, *rest)

    monkeypatch.setattr(http, name, slow)
    monkeypatch.setattr("pureqwen.serve.threads.LONG", 1000)
    body = {"model": "pocket", "prompt": "hello " * 300}
    many = [threading.Thread(target=served.ask, args=(path, body)) for _ in range(6)]
    for one in many:
        one.start()
    try:
        assert begun.acquire(timeout=10)
        time.sleep(0.1)  # the others queue
        assert served.ask("/tokenize", {"prompt": "Hi"})[0] == 200
        assert served.chat("Hi", max_tokens=2)[0] == 200
    finally:
        held.set()
        for one in many:
            one.join()


def test_slow_grammars_are_waited_for_by_nobody_else(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were compiled in the threads that read, submit and write everybody's requests."""
    from pureqwen.serve import http

    real, held, begun = http.make_form, threading.Event(), threading.Semaphore(0)

    def slow(*given: Any) -> Any:
        begun.release()
        assert held.wait(30)
        return real(*given)

    monkeypatch.setattr(http, "make_form", slow)
    form = {"response_format": {"type": "regex", "pattern": "[a-z]{1,5}"}, "max_tokens": 8}
    told: list[int] = []
    many = [threading.Thread(target=lambda: told.append(served.chat("Hi", **form)[0])) for _ in range(40)]
    try:
        for one in many:
            one.start()
        for _ in range(4):
            assert begun.acquire(timeout=20)
        wait_for(lambda: served.server._service._entering == len(many))
        assert served.ask(TEXT, {"model": "pocket", "prompt": "Hi", "max_tokens": 2})[0] == 200
        assert served.events(CHAT, {**HI, "max_tokens": 2})[-1] == "data: [DONE]"
    finally:
        held.set()
        for one in many:
            one.join()
    assert told == [200] * len(many)
