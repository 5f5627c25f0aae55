"""benchmarks/bench_serve.py: the crowd, the client, llama.cpp's loop, figures; then all on a tiny model."""

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_serve as bench
from benchmarks.peers import crowd_client, crowd_llama
from benchmarks.peers.crowd import Crowd, Figures, Request, figures, plain, quantile
from benchmarks.peers.crowd_server import Program
from benchmarks.peers.process import Failed


def request(at: float = 0.0, prompt: int = 4, tokens: int = 3) -> Request:
    return Request(at=at, prompt=list(range(prompt)), tokens=tokens)


# ---- the crowd -------------------------------------------------------------------------------------------


def test_a_crowd_is_the_same_for_every_program_and_another_one_in_the_next_turn() -> None:
    crowd = Crowd(name="Poisson", gap=0.25)
    assert crowd.requests(1) == crowd.requests(1)
    first, second = crowd.requests(1), crowd.requests(2)
    assert not {tuple(r.prompt) for r in first} & {tuple(r.prompt) for r in second}


def test_prompts_are_of_mixed_lengths_and_arrivals_of_the_mean_that_is_asked_for() -> None:
    requests = Crowd(name="Poisson", count=400, gap=0.25).requests(1)
    lengths = [len(r.prompt) for r in requests]
    assert min(lengths) >= 64 and max(lengths) <= 192 and 118 < sum(lengths) / 400 < 138
    times = [r.at for r in requests]
    assert times[0] == 0 and times == sorted(times) and 0.2 < times[-1] / 399 < 0.3
    assert all(r.at == 0 for r in Crowd(name="at once").requests(1))


def test_a_shared_beginning_is_shared_by_all_and_by_no_other_turn() -> None:
    crowd = Crowd(name="prefix", count=3, shared=50)
    first, second = crowd.requests(1), crowd.requests(2)
    assert len({tuple(r.prompt[:50]) for r in first}) == 1
    assert len({tuple(r.prompt[50:]) for r in first}) == 3
    assert first[0].prompt[:50] != second[0].prompt[:50]


def test_a_late_prompt_comes_once_and_wants_one_token() -> None:
    *others, last = Crowd(name="stall", count=8, late=4000, late_at=8.0).requests(1)
    assert len(others) == 8 and all(r.at == 0 and r.tokens == 64 for r in others)
    assert (len(last.prompt), last.at, last.tokens) == (4000, 8.0, 1)


def test_the_figures_are_what_the_times_say() -> None:
    found = figures([request(0.0), request(1.0)], [[0.5, 0.6, 0.8], [2.0, 2.1, 3.0]])
    assert found.speed == pytest.approx(6 / 3.0)
    assert (found.first, found.first_99) == (0.75, 1.0)
    assert found.between == pytest.approx(0.15) and found.between_99 == pytest.approx(0.9)
    assert found.longest == pytest.approx(0.9)
    later = figures([request(0.0), request(0.7, tokens=1)], [[0.1, 0.6, 0.8], [0.9]])
    assert later.longest == pytest.approx(0.2), "what was before the last one came is not its doing"


def test_an_answer_that_is_cut_or_comes_in_lumps_gives_no_figures() -> None:
    with pytest.raises(ValueError, match="an answer of 3 tokens was seen in 2 pieces"):
        figures([request()], [[0.1, 0.2]])
    with pytest.raises(ValueError, match="in 0 pieces"):
        figures([request()], [[]], least=0.0)
    with pytest.raises(ValueError, match="in 4 pieces"):
        figures([request()], [[0.1, 0.2, 0.3, 0.4]])
    assert figures([request()], [[0.1, 0.2]], least=0.5)


def test_a_quantile_is_a_value_that_was_there() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [quantile(values, share) for share in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert quantile([7.0], 0.99) == 7


# ---- the client ------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[Any]:
    """`port(answer)`: of a server that answers each request so, and keeps their bodies in `port.bodies`."""
    bodies, servers = list[dict[str, Any]](), list[socketserver.ThreadingTCPServer]()

    def serve(answer: list[bytes]) -> int:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head = list(iter(self.rfile.readline, b"\r\n"))
                [length] = [int(line.split()[1]) for line in head if line.startswith(b"Content-Length")]
                bodies.append(json.loads(self.rfile.read(length)))
                for piece in answer:
                    self.wfile.write(piece)
                    time.sleep(0.01)

        servers.append(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return int(servers[-1].server_address[1])

    serve.bodies = bodies  # type: ignore[attr-defined]
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n"


def test_the_client_notes_the_time_of_every_piece_of_text_and_of_nothing_else(port: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    answer = [head, b": alive\n\n", event("a"), event(""), event("b"), b'data: {"choices": []}\n\n']
    where = port([*answer, event("c"), b"data: [DONE]\n\n"])
    requests = [request(0.0), request(0.05)]
    times = crowd_client.ask(where, requests, model="m", fields={"cache_prompt": False})
    assert [len(got) for got in times] == [3, 3]
    assert all(got == sorted(got) and got[-1] > got[0] for got in times)
    assert times[1][0] >= 0.05
    assert port.bodies[0] == {
        "model": "m",
        "prompt": [0, 1, 2, 3],
        "max_tokens": 3,
        "stream": True,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }


def test_what_is_no_answer_is_an_error_that_says_what_came(port: Any) -> None:
    refused = port([b'HTTP/1.1 429 Too Many\r\nA: b\r\n\r\n{"error": "busy"}'])
    with pytest.raises(RuntimeError, match=r"429 Too Many: .*busy"):
        crowd_client.ask(refused, [request()], model="m")
    broken = port([b"HTTP/1.1 200 OK\r\n\r\n", event("a"), b'data: {"error": {"message": "gone"}}\n\n'])
    with pytest.raises(RuntimeError, match="gone"):
        crowd_client.ask(broken, [request()], model="m")


def test_a_server_that_ends_at_once_says_its_last_words(tmp_path: Path) -> None:
    import sys

    words = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(Failed, match="not ready: no such model"):
        Program(name="x", bits=8, command=lambda port: words).start(tmp_path, {})
    with pytest.raises(Failed, match="not installed"):
        Program(name="x", bits=8, command=lambda port: ["/no/such/file"]).start(tmp_path, {})


# ---- llama.cpp's loop ------------------------------------------------------------------------------------


class FakeLlama(crowd_llama.CrowdOfLlama):
    """The loop without the library: keeps what each call computes, and checks that no place is left out."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, int, int, bool]]] = []
        self.cells: dict[int, int] = {}
        self.lib = self  # type: ignore[assignment]
        self.context = None

    def begin(self, batch: int, length: int) -> None:
        self.room = length

    def llama_get_memory(self, context: Any) -> "FakeLlama":
        return self

    def llama_memory_seq_rm(self, memory: Any, number: int, start: int, end: int) -> None:
        self.cells.pop(number)

    def run(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        assert 0 < len(tokens) <= crowd_llama.CALL
        for _, place, number, _ in tokens:
            assert place == self.cells.get(number, 0) < self.room
            self.cells[number] = place + 1
        self.calls.append(tokens)

    def best(self, n: int) -> int:
        assert self.calls[-1][n][3], "logits that were not asked for"
        return 7


def test_llama_s_loop_computes_each_token_once_and_mixes_prompts_with_answers() -> None:
    fake = FakeLlama()
    requests = [request(0.0, prompt=1500, tokens=4) for _ in range(3)] + [request(0.01, prompt=5)]
    times = fake.crowd(plain(requests))
    assert [len(got) for got in times] == [4, 4, 4, 3]
    assert sum(map(len, fake.calls)) == 3 * 1500 + 3 * 3 + 5 + 2
    assert fake.cells == {}, "every slot is empty again"
    mixed = [call for call in fake.calls if any(t == 7 for t, *_ in call) and len(call) > 100]
    assert mixed, "a prompt is read beside an answer"


def test_llama_s_loop_has_as_many_slots_as_its_server() -> None:
    fake = FakeLlama()
    times = fake.crowd(plain([request(tokens=2) for _ in range(40)]))
    assert [len(got) for got in times] == [2] * 40
    assert max(len({number for _, _, number, _ in call}) for call in fake.calls) == crowd_llama.SLOTS


# ---- rows ------------------------------------------------------------------------------------------------


def fig(speed: float, first: float = 1.0, longest: float = 0.1) -> Figures:
    return Figures(speed=speed, first=first, first_99=2.0, between=0.05, between_99=0.1, longest=longest)


RUNS: bench.Runs = {
    ("at once", "pureqwen", 16): [fig(60), fig(66), fig(63)],
    ("at once", "llama.cpp's server", 16): [fig(42), fig(40)],
    ("at once", "transformers", 16): [fig(21)],
    ("Poisson", "pureqwen", 8): [fig(50)],
    ("Poisson", "llama.cpp's server", 8): [fig(50)],
    ("prefix", "pureqwen", 8): [fig(9, 1.0)],
    ("prefix", "pureqwen without prefix caching", 8): [fig(3, 6.0)],
}


def test_rows_show_medians_and_how_far_we_are_ahead_at_the_same_bits() -> None:
    rows = {(r["requests"], r["program"], r["bits"]): r for r in bench.rows_of(RUNS)}
    assert rows["at once", "pureqwen", 16]["output tokens/s"] == "63.0 (60.0 to 66.0)"
    assert rows["at once", "llama.cpp's server", 16]["pureqwen is ahead"] == "1.54"
    assert rows["at once", "transformers", 16]["pureqwen is ahead"] == "3.00"
    assert rows["prefix", "pureqwen without prefix caching", 8]["pureqwen is ahead"] == "6.0"
    assert rows["at once", "pureqwen", 16]["pureqwen is ahead"] == ""
    assert rows["Poisson", "pureqwen", 8]["between tokens, ms"] == "50"
    assert len({tuple(row) for row in bench.rows_of(RUNS)}) == 1, "one table"


def test_a_bar_is_the_least_lead_and_what_was_not_measured_is_not_reached() -> None:
    found = {bar["over"]: (bar["found"], bar["verdict"]) for bar in bench.bars_of(RUNS)}
    assert found["llama.cpp"] == (1.0, "not reached")
    assert found["transformers"] == (3.0, "reached")
    assert found["pureqwen without"] == (6.0, "reached")
    assert {bar["verdict"] for bar in bench.bars_of({})} == {"not measured"}


def test_the_longest_wait_beside_a_long_prompt_is_seen_in_medians() -> None:
    for longest, verdict in ((0.14, "reached"), (0.16, "not reached")):
        *_, bar = bench.bars_of({("stall", "pureqwen", 8): [fig(50), fig(50, longest=longest)]})
        assert (bar["found"], bar["verdict"]) == (round(longest / 0.05, 1), verdict)


def test_answers_in_one_piece_say_nothing_of_waits() -> None:
    quick = replace(fig(50), between=0.0, longest=0.0)
    assert bench.bars_of({("stall", "pureqwen", 8): [quick]}) == bench.bars_of({})


# ---- all of it -------------------------------------------------------------------------------------------


def quick(out: Path, *flags: str) -> dict[str, Any]:
    bench.main(["--quick", "--runs", "1", "--threads", "1", "--out", str(out), *flags])
    found: dict[str, Any] = json.loads(out.read_text())
    assert {"command", "device", "versions"} <= set(found)
    return found


def test_quick_measures_our_server_before_a_crowd(tmp_path: Path) -> None:
    flags = ["--only", "dense", "--bits", "8", "--without", "llama.cpp", "transformers"]
    found = quick(tmp_path / "serve.json", *flags)
    assert not found["missing"]
    assert [row["requests"] for row in found["rows"]] == ["Poisson", "at once"]
    assert len(found["runs"]) == 2


@pytest.mark.long
def test_quick_measures_a_shared_beginning_and_transformers_too(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = quick(tmp_path / "serve.json", "--without", "llama.cpp")
    assert not found["missing"]
    programs = {(row["requests"], row["program"], row["bits"]) for row in found["rows"]}
    assert {("at once", "transformers", 16), ("Poisson", "pureqwen", 16)} <= programs
    assert ("prefix", "pureqwen without prefix caching", 8) in programs
    assert {("stall", "pureqwen", 8), ("bits", "pureqwen deterministic", 16)} <= programs
