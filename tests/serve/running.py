"""A server in a thread of the test or in a process, on a free port: real sockets, real uvicorn, real HTTP."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pureqwen import EngineConfig, Qwen
from pureqwen.config import ServeConfig
from pureqwen.generate import Row
from pureqwen.serve.engine import Engine, Ticket
from pureqwen.serve.http import create_app
from pureqwen.serve.server import Server, listen

PLACE: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SUM: Any = [{"role": "user", "content": "What is 3 + 4?"}]
PARIS: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


@dataclass(frozen=True)
class Running:
    """A server that answers at `port`."""

    port: int
    engine: Any
    server: Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """(status, headers, the body: JSON where it is); bytes are sent as they are."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            sent = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
            link.request("GET" if body is None else "POST", path, data, sent)
            answer = link.getresponse()
            content = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
            as_json = found.get("content-type", "").startswith("application/json")
            return answer.status, found, json.loads(content) if as_json else content.decode()
        finally:
            link.close()

    def chat(self, text: str = "What is 347 * 86?", **fields: Any) -> tuple[int, dict[str, str], Any]:
        body = {"model": "pocket", "messages": [{"role": "user", "content": text}], **fields}
        return self.ask("/v1/chat/completions", body)

    def events(self, path: str, body: Any, **headers: str) -> list[str]:
        """The events of a stream, comments and all, without their blank lines."""
        status, _, text = self.ask(path, {**body, "stream": True}, **headers)
        assert status == 200, text
        return [event for event in text.split("\n\n") if event]


@contextlib.contextmanager
def running(
    engine: Any,
    qwen: Qwen,
    config: ServeConfig | None = None,
    *,
    drain: float = 0.0,
    buffer: int | None = None,
) -> Iterator[Running]:
    """The server while the block runs; then it is stopped, and its thread must end.

    buffer: bytes that the system takes in the place of a client that does not read.
    """
    bound = listen("127.0.0.1", 0)
    if buffer is not None:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    server = InThread(create_app(engine, qwen, config or ServeConfig()), drain=drain)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        assert server.started
        yield Running(bound.getsockname()[1], engine, server)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process `pureqwen serve`, and its port once it is up."""
    command = [sys.executable, "-m", "pureqwen", "serve", "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "http://127.0.0.1:" in line)
            yield process, int(line.partition("http://127.0.0.1:")[2].partition("/")[0])
        finally:
            process.kill()


class Client:
    """A connection that reads what and when the test wants."""

    def __init__(self, server: Running, path: str, body: Any, *, buffer: int | None = None) -> None:
        self.link = socket.socket()
        self.link.settimeout(30)
        if buffer is not None:
            self.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.link.connect(("127.0.0.1", server.port))
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.link.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self.got = b""

    def until(self, mark: bytes) -> bytes:
        while mark not in self.got:
            more = self.link.recv(65536)
            assert more, self.got[-500:]
            self.got += more
        return self.got

    def rest(self) -> bytes:
        """All that comes until the connection ends."""
        try:
            while more := self.link.recv(65536):
                self.got += more
        except ConnectionResetError:
            pass
        return self.got

    def close(self) -> None:
        self.link.close()


class Upload(Client):
    """A request for `size` bytes of JSON, of which it sends what the test wants."""

    def __init__(self, server: Running, size: int, path: str = "/v1/chat/completions") -> None:
        self.link, self.got = socket.create_connection(("127.0.0.1", server.port), timeout=30), b""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.link.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())

    def send(self, count: int) -> None:
        self.link.sendall(b" " * count)


class Watched(Engine):
    """The engine, as slow as a test wants it: `pause` seconds before each step. It remembers the `salts` of
    its requests, and the rows that were given up before they had ended.
    """

    def __init__(self, qwen: Qwen, *, config: EngineConfig | None = None) -> None:
        super().__init__(qwen, config=config)
        self.pause = 0.0
        self.salts: list[str] = []
        self.aborted: list[Row] = []

    def submit(self, row: Row, *, listen: Any, salt: str = "") -> Ticket:
        self.salts.append(salt)
        return super().submit(row, listen=listen, salt=salt)

    def abort(self, ticket: Ticket) -> None:
        if not ticket.row.finished:
            self.aborted.append(ticket.row)
        super().abort(ticket)

    def _step(self) -> None:
        time.sleep(self.pause)
        super()._step()


class InThread(Server):
    """Signals are the main thread's, which is the test's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    """Until it holds; an assertion where it does not come to."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
