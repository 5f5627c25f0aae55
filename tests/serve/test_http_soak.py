"""Ten minutes of a crowd that behaves as crowds do: at the end nothing is lost, kept or left open.

PUREQWEN_SOAK_SECONDS sets another length. The server is a process of its own, so that its memory is its own.
"""

import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import PLACE, started

SECONDS = float(os.environ.get("PUREQWEN_SOAK_SECONDS", "600"))
CLIENTS = 12
WORDS = [
    "hello",
    "what is",
    "347",
    "*",
    "86",
    "?",
    "weather",
    "in Paris",
    "naïve",
    "\U0001f600",
    "<|im_end|>",
    "json",
]


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], int]]:
    with started("--max-queue", "8", "--max-batch", "8") as (found, port):
        errors: list[str] = []
        drain = threading.Thread(
            target=lambda: errors.extend(t for t in found.stderr or () if "level=error" in t)
        )
        drain.start()
        yield found, port
        found.send_signal(signal.SIGTERM)
        assert found.wait(60) == 0
        drain.join()
    assert not errors, errors[:3]


class Crowd:
    """Clients of every kind; `ends` counts how their requests ended, `lost` those that did not."""

    def __init__(self, port: int, until: float) -> None:
        self.port, self.until = port, until
        self.ends: Counter[str] = Counter()
        self.lost: list[str] = []

    def run(self, number: int) -> None:
        draw = random.Random(number)
        kinds = [
            self.whole,
            self.whole,
            self.stream,
            self.stream,
            self.leave,
            self.dawdle,
            self.garbage,
            self.wrong,
        ]
        while time.monotonic() < self.until:
            kind = draw.choice(kinds)
            try:
                self.ends[f"{kind.__name__}: {kind(draw)}"] += 1
            except Exception as error:
                self.lost.append(f"{kind.__name__}: {error!r}")

    def count(self, end: str) -> int:
        """Requests that ended so, of every kind of client."""
        return sum(count for name, count in self.ends.items() if name.endswith(f": {end}"))

    def request(self, draw: random.Random) -> tuple[str, dict[str, Any]]:
        text = " ".join(draw.choices(WORDS, k=draw.choice([1, 3, 20, 200])))
        body: dict[str, Any] = {"model": "pocket", "max_tokens": draw.choice([1, 8, 40, 120])}
        messages = [{"role": "user", "content": text}]
        path = draw.choice(["/v1/chat/completions"] * 3 + ["/v1/completions", "/v1/messages"])
        if path == "/v1/completions":
            echo = {"echo": True, "logprobs": 2} if draw.random() < 0.3 else {}
            return path, {**body, "prompt": text, **echo}
        body["messages"] = messages
        if path == "/v1/chat/completions":
            function = {"name": "get_weather", "parameters": PLACE}
            tools = {"tools": [{"type": "function", "function": function}]}
            schema = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
            body |= draw.choice(
                [
                    {},
                    {"n": draw.choice([2, 4])},
                    {"logit_bias": {"5": -100, "9": 3.5}, "seed": draw.randrange(100)},
                    {"response_format": {"type": "regex", "pattern": "[a-z]{1,9}[0-9]?"}},
                    {"enable_thinking": True, "thinking_budget": 4, "max_tokens": 120},
                    {"logprobs": True, "top_logprobs": 3},
                    {"stop": ["7", "a"]},
                    {**tools, "tool_choice": draw.choice(["auto", "required"])},
                    {"response_format": schema},
                    {"enable_thinking": False, "temperature": 0},
                ]
            )
        return path, body

    def send(self, path: str, body: Any) -> http.client.HTTPResponse:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        link.request("POST", path, data, {"Content-Type": "application/json", "Connection": "close"})
        return link.getresponse()

    def whole(self, draw: random.Random) -> str:
        path, body = self.request(draw)
        with self.send(path, body) as answer:
            told = json.loads(answer.read())
        assert answer.status in (200, 429), told
        if answer.status == 429:
            time.sleep(0.05)
        assert ("error" in told) == (answer.status != 200)
        return str(answer.status)

    def stream(self, draw: random.Random, pause: float = 0.0) -> str:
        path, body = self.request(draw)
        with self.send(path, {**body, "stream": True}) as answer:
            if answer.status != 200:
                answer.read()
                assert answer.status == 429
                time.sleep(0.05)
                return "429"
            last = b""
            while line := answer.readline():
                last = line if line.strip() else last
                time.sleep(pause * draw.random())
        ended = b"message_stop" in last or last.strip() == b"data: [DONE]"
        assert ended, last
        return "200"

    def dawdle(self, draw: random.Random) -> str:
        """A reader that is slow."""
        return self.stream(draw, pause=0.05)

    def leave(self, draw: random.Random) -> str:
        """A client that goes away in the middle."""
        path, body = self.request(draw)
        data = json.dumps({**body, "stream": draw.random() < 0.5, "max_tokens": 400}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        sent = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
        with socket.create_connection(("127.0.0.1", self.port)) as link:
            link.sendall(sent[: draw.choice([10, len(sent) // 2, len(sent), len(sent)])])
            time.sleep(draw.choice([0, 0.01, 0.1, 0.3]))
        return "left"

    def garbage(self, draw: random.Random) -> str:
        with socket.create_connection(("127.0.0.1", self.port)) as link:
            try:
                link.sendall(draw.randbytes(draw.choice([1, 100, 5000])) + b"\r\n\r\n")
                link.shutdown(socket.SHUT_WR)
                link.settimeout(30)
                link.recv(4096)
            except (ConnectionResetError, BrokenPipeError, OSError):
                pass
        return "refused"

    def wrong(self, draw: random.Random) -> str:
        bodies: list[Any] = [b"{", b"[]", {"model": "x"}, {"model": "pocket", "messages": [], "n": 10**6}]
        with self.send("/v1/chat/completions", draw.choice(bodies)) as answer:
            assert answer.status in (400, 404, 429), answer.read()
            answer.read()
        return "refused"


def resident(process: subprocess.Popen[str]) -> float:
    """Megabytes that a process has in memory."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def figures(port: int) -> dict[str, float]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    link.request("GET", "/metrics")
    text = link.getresponse().read().decode()
    link.close()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def is_answer(name: str) -> bool:
    """Whether a metric counts requests that were answered by the model."""
    return name.startswith("pureqwen_requests_total") and "/v1/" in name and 'status="200"' in name


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_crowd_leaves_no_page_no_memory_and_no_open_end(process: tuple[subprocess.Popen[str], int]) -> None:
    server, port = process
    began = time.monotonic()
    crowd = Crowd(port, began + SECONDS)
    threads = [threading.Thread(target=crowd.run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    sizes: list[float] = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(1.0, SECONDS / 100))
        sizes.append(resident(server))
    for thread in threads:
        thread.join()
    end = time.monotonic() + 10
    names = ("pureqwen_pages_used", "pureqwen_batch_requests", "pureqwen_queue_requests")
    while any(figures(port)[name] for name in names):
        assert time.monotonic() < end, figures(port)
        time.sleep(0.1)
    assert not crowd.lost, (len(crowd.lost), crowd.lost[:5])
    kinds = {end.partition(":")[0] for end in crowd.ends}
    assert len(kinds) == 6, crowd.ends
    told, busy, left = (crowd.count(end) for end in ("200", "429", "left"))
    assert told > busy / 4, crowd.ends
    found = figures(port)
    assert found["pureqwen_step_failures_total"] == 0
    answered = sum(value for name, value in found.items() if is_answer(name))
    assert told <= answered <= told + left, (told, answered, left)
    third = len(sizes) // 3
    middle, last = statistics.median(sizes[third : 2 * third]), statistics.median(sizes[2 * third :])
    print(dict(crowd.ends), f"{sizes[0]:.0f} -> {middle:.0f} -> {last:.0f} MB")
    assert last < middle * 1.02, (sizes[0], middle, last)
