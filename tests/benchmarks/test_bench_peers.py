"""benchmarks/bench_peers.py without any peer: workers, turns, arithmetic, tables."""

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from benchmarks.peers.process import Failed, Worker
from benchmarks.peers.programs import HEAD, Group, Places, Program, Task, everyone, groups, peers_of
from benchmarks.peers.rows import Key
from benchmarks.peers.turns import Bench
from benchmarks.peers.worker import prompts

ROOT = Path(__file__).parents[2]
FAKE = """
import os, sys
sys.path.insert(0, {root!r})
from benchmarks.peers.worker import main

class Fake:
    def load(self):
        print("noise on standard output")
        return {{"dtype": "float32", "versions": {{"fake": "1.0"}}}}
    def prefill(self, prompts):
        self.shape = len(prompts), len(prompts[0])
        if self.shape[1] == 13:
            raise ValueError("thirteen\\nis too many")
        if self.shape[1] == 14:
            print("out of luck", file=sys.stderr)
            os._exit(3)
    def step(self):
        print("more noise")

main(Fake)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Any:
    """A worker of its own process, ended afterwards."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE.format(root=str(ROOT)))
    worker = Worker([sys.executable, str(script)], log=tmp_path / "log")
    yield worker
    worker.stop()


def test_a_worker_answers_each_command_on_one_line_whatever_the_program_prints(fake: Worker) -> None:
    loaded = fake.ask("load")
    assert loaded["facts"]["versions"] == {"fake": "1.0"} and loaded["seconds"] >= 0
    assert fake.ask("prefill", prompt=5, batch=2)["seconds"] >= 0
    assert len(fake.ask("decode", steps=3)["seconds"]) == 3
    assert isinstance(fake.ask("memory")["bytes"], int)


def test_an_error_is_an_answer_and_the_worker_goes_on(fake: Worker) -> None:
    fake.ask("load")
    with pytest.raises(Failed, match=r"^ValueError: thirteen$"):
        fake.ask("prefill", prompt=13, batch=1)
    with pytest.raises(Failed, match="no such command: dance"):
        fake.ask("dance")
    assert fake.ask("prefill", prompt=5, batch=1)


def test_a_worker_that_dies_says_its_last_words(fake: Worker) -> None:
    with pytest.raises(Failed, match="ended with 3: out of luck"):
        fake.ask("prefill", prompt=14, batch=1)
    with pytest.raises(Failed, match="ended with 3"):
        fake.ask("load")


def test_a_worker_that_is_silent_is_ended(tmp_path: Path) -> None:
    worker = Worker([sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "log")
    with pytest.raises(Failed, match="no answer"):
        worker.ask("load", patience=0.05)
    worker.stop()
    assert worker.process.returncode is not None


def test_a_program_that_is_not_there_is_said_to_be_not_installed(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="not installed"):
        Worker([str(tmp_path / "python"), "-m", "nothing"], log=tmp_path / "log")


def test_prompts_are_the_same_for_all_and_new_in_every_turn() -> None:
    assert prompts(6, 2, 1) == prompts(6, 2, 1) != prompts(6, 2, 2)
    first, second = prompts(6, 2, 1)
    assert first != second and len(first) == 6


# ---- turns -----------------------------------------------------------------------------------------------


class Scripted:
    """A worker that answers from a function, and notes what it was asked."""

    def __init__(self, name: str, notes: list[tuple[str, str]], answer: Callable[[str], Any]) -> None:
        self.name, self.notes, self.answer = name, notes, answer
        self.stopped = False
        self.seeds: list[int] = []

    def ask(self, do: str, **fields: Any) -> Any:
        self.notes.append((self.name, do))
        self.seeds += [fields["seed"]] if "seed" in fields else []
        return self.answer(do)

    def stop(self) -> None:
        self.stopped = True


def program(name: str, bits: int = 8) -> Program:
    return Program(name=name, kind="dense", bits=bits, format="int8", command=(name,))


def bench_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **answers: Callable[[str], Any]
) -> tuple[Bench, list[tuple[str, str]]]:
    monkeypatch.setattr("benchmarks.peers.turns.PAUSE", 0)
    monkeypatch.setattr("benchmarks.peers.turns.STEPS_ALONE", 0)
    notes: list[tuple[str, str]] = []
    bench = Bench(tmp_path, threads=1)
    monkeypatch.setattr(bench, "start", lambda p: Scripted(p.name, notes, answers[p.name]))
    return bench, notes


def steady(do: str) -> Any:
    return {
        "load": {"facts": {"dtype": "float32", "versions": {"x": "1"}}},
        "prefill": {"seconds": 2.0},
        "decode": {"seconds": [0.5, 0.25, 4.0]},
        "fill": {},
        "memory": {"bytes": 5_000_000},
    }[do]


def test_programs_take_turns_and_the_order_is_turned_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, notes = bench_of(tmp_path, monkeypatch, a=steady, b=steady)
    with bench.held([program("a"), program("b")]):
        bench.take(Task(what="decode", prompt=8, bits=(8,), steps=3, again=True), runs=2)
    turns = [name for name, do in notes if do == "decode"]
    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert bench.found == {
        Key("prefill", 8, 1, 8): {"a": [4.0] * 2, "b": [4.0] * 2},  # the first round warms up
        Key("decode", 8, 1, 8): {"a": [2.0] * 2, "b": [2.0] * 2},  # the median of the steps
    }
    assert bench.versions() == {"x": "1"}


def test_rounds_of_steps_alone_follow_for_all_but_ours_without_native_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, notes = bench_of(tmp_path, monkeypatch, a=steady, plain=steady, b=steady)
    monkeypatch.setattr("benchmarks.peers.turns.STEPS_ALONE", 2)
    with bench.held([program("a"), program("plain"), program("b")]):
        bench.take(Task(what="decode", prompt=8, bits=(8,), steps=3, again=True), runs=1)
    assert [f"{name} {do}" for name, do in notes if do != "load"][-6:] == [
        *("a prefill", "a decode"),  # the end of the round that counts
        *("a decode", "b decode", "b decode", "a decode"),
    ]
    counts = {name: len(speeds) for name, speeds in bench.found[Key("decode", 8, 1, 8)].items()}
    assert counts == {"a": 3, "plain": 1, "b": 3}
    assert len(bench.found[Key("prefill", 8, 1, 8)]["a"]) == 1


def test_a_batch_computes_its_prompts_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, notes = bench_of(tmp_path, monkeypatch, a=steady)
    with bench.held([program("a")]):
        bench.take(Task(what="decode", prompt=8, bits=(8,), batch=4), runs=3)
        bench.take(Task(what="long decode", prompt=64, bits=(8,), cached=True), runs=1)
        bench.take(Task(what="decode", prompt=8, bits=(4,)), runs=1)  # not for these bits
    assert [do for _, do in notes] == ["load", "prefill", *["decode"] * 4, "fill", *["decode"] * 2]
    assert bench.found[Key("decode", 8, 4, 8)] == {"a": [8.0] * 3}
    assert bench.found[Key("long decode", 8, 1, 64)] == {"a": [2.0]}


def test_memory_is_read_before_each_turn_of_ours_that_counts_and_a_row_knows_which_of_ours_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, notes = bench_of(tmp_path, monkeypatch, a=steady, ours=steady)
    with bench.held([program("a"), program("ours")]):
        task = Task(what="decode", prompt=8, bits=(8,))
        bench.take(task, runs=2, before=lambda: notes.append(("-", "read")))
    assert [f"{name} {do}" for name, do in notes if do in ("read", "decode")] == [
        *("a decode", "ours decode"),  # warms up
        *("- read", "ours decode", "a decode"),
        *("a decode", "- read", "ours decode"),
    ]
    assert bench.ours == {Key("decode", 8, 1, 8): program("ours")}


def test_who_has_no_task_left_gives_its_memory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _ = bench_of(tmp_path, monkeypatch, a=steady, b=steady)
    with bench.held([program("a"), program("b", bits=32)]):
        wide: Any = bench.workers[program("b", bits=32)]
        bench.keep({8, 4})
        assert list(bench.workers) == [program("a")] and wide.stopped


def test_a_slow_program_is_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.turns.SLOW", -1)
    bench, notes = bench_of(tmp_path, monkeypatch, a=steady)
    with bench.held([program("a")]):
        bench.take(Task(what="decode", prompt=8, bits=(8,)), runs=5)
    assert [do for _, do in notes] == ["load", "prefill", "decode", "decode"]
    assert bench.found == {Key("decode", 8, 1, 8): {"a": [2.0]}}


def test_memory_is_read_where_all_of_ours_are_slow_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import bench_peers
    from benchmarks.peers import limits

    monkeypatch.setattr("benchmarks.peers.turns.SLOW", -1)
    monkeypatch.setattr(limits, "BUFFER", 1 << 20)
    bench, _ = bench_of(tmp_path, monkeypatch, ours=steady)
    task = Task(what="decode", prompt=8, bits=(8,))
    group = Group(name="dense", kind="dense", programs=[program("ours")], tasks=(task,))
    during: dict[Key, limits.Machine] = {}
    bench_peers.run(bench, group, argparse.Namespace(quick=False, runs=2), limits.Machine(), during)
    assert len(during[Key("decode", 8, 1, 8)].read) == 1


def test_a_program_that_was_slow_but_once_is_measured_like_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.turns.SLOW", 7)
    asked: list[str] = []

    def disturbed(do: str) -> Any:
        asked.append(do)
        return {"seconds": [8.0]} if asked.count("decode") == 1 and do == "decode" else steady(do)

    bench, _ = bench_of(tmp_path, monkeypatch, a=disturbed)
    with bench.held([program("a")]):
        bench.take(Task(what="decode", prompt=8, bits=(8,), again=True), runs=3)
        worker: Any = bench.workers[program("a")]
    assert bench.found[Key("decode", 8, 1, 8)] == {"a": [2.0, 2.0, 2.0]}
    assert not bench.slow
    assert len(worker.seeds) == len(set(worker.seeds)) == 5  # each prompt is new to who has to compute it


def test_a_slow_peer_is_not_asked_for_batches_but_ours_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.turns.SLOW", -1)
    bench, _ = bench_of(tmp_path, monkeypatch, a=steady, ours=steady)
    with bench.held([program("a"), program("ours")]):
        bench.take(Task(what="decode", prompt=8, bits=(8,), again=True), runs=1)
        bench.take(Task(what="decode", prompt=8, bits=(8,), batch=2), runs=1)
    assert list(bench.found[Key("decode", 8, 2, 8)]) == ["ours"]
    assert "no batches" in bench.missing()["a"]


def test_who_fails_is_left_out_with_a_reason_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(do: str) -> Any:
        if do == "decode":
            raise Failed("out of memory")
        return steady(do)

    bench, _ = bench_of(tmp_path, monkeypatch, a=steady, b=failing)
    for group in ("dense", "memory"):
        bench.begin(group)
        with bench.held([program("a"), program("b")]):
            bench.take(Task(what="decode", prompt=8, bits=(8,)), runs=2)
    assert bench.missing() == {"b": "dense, memory: out of memory"}
    assert list(bench.found[Key("decode", 8, 1, 8)]) == ["a"]
    assert not bench.workers


def test_the_start_is_a_new_process_each_time_and_memory_is_in_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, notes = bench_of(tmp_path, monkeypatch, a=steady)
    monkeypatch.setattr(Scripted, "started", 0.0, raising=False)
    bench.begin_anew([program("a")], 32, runs=2)
    assert [do for _, do in notes] == ["load", "prefill"] * 3
    assert len(bench.found[Key("start-up", 8, 1, 32)]["a"]) == 2
    bench.weigh([program("a")], 512, steps=8)
    assert bench.found[Key("memory", 8, 1, 512)] == {"a": [5.0]}


def test_every_peer_of_a_group_has_a_command_and_ours_comes_with_and_without_native_code() -> None:
    places = Places(Path("models"), Path("python"), 2)
    for kind in ("dense", "moe"):
        for bits in (16, 8, 4):
            found = everyone(places, kind, (bits,))
            assert [p.name for p in found] == ["ours", "plain", *peers_of(kind, bits)]
            assert all(p.command[3] == f"models/{kind}/{p.format}" for p in found)
    assert ["--plain" in p.command for p in found[:2]] == [False, True]
    start = next(group for group in groups(places) if group.name == "start")
    assert [p.command[3] for p in start.programs[:3]] == [
        "models/start/int8",
        "models/start/int8",
        "models/dense/Q8_0.gguf",
    ]
    assert {group.name for group in groups(places)} == {"dense", "long", "start", "memory", "moe"}
    assert all(isinstance(group, Group) for group in groups(places))


# ---- models ----------------------------------------------------------------------------------------------


def test_llama_is_built_with_the_flags_that_the_result_names() -> None:
    from benchmarks.peers.run_llama import BUILD, WITHOUT_AMX

    flags = re.search(r"^NATIVE +:= (.*)", (ROOT / "Makefile").read_text(), re.M)
    assert flags and BUILD in flags[1] and WITHOUT_AMX in flags[1]
    pins = (ROOT / "benchmarks" / "peers" / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line) for line in pins)
    assert {"torch==2.13.0", "openvino==2026.4.1", "llama_cpp_python==0.3.36"} <= set(pins)


def test_the_mixture_of_experts_has_three_billion_parameters() -> None:
    from benchmarks.peers.models import shape

    assert shape("moe").num_parameters() == pytest.approx(3.2e9, rel=0.02)


def tensors_of(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def test_the_head_in_4_bits_is_measured_beside_llama_and_by_itself(tmp_path: Path) -> None:
    small = [g for g in groups(Places(tmp_path, tmp_path / "python", 2)) if g.tasks == (HEAD,)]
    assert [str(one) for one in small[0].programs] == [
        "pureqwen, 4 bits, the head too",
        "llama.cpp Q4_0",
        "llama.cpp Q4_K_M",
    ]
    assert str(tmp_path / "dense" / "int4-g64-head") in small[0].programs[0].command


def test_a_format_that_can_t_be_made_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.peers import models

    def small(kind: str) -> Any:
        sizes = {"num_hidden_layers": 1, "vocab_size": 512, "hidden_size": 128, "intermediate_size": 128}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
        return replace(real(kind), **sizes, **heads)

    real = models.shape
    monkeypatch.setattr(models, "shape", small)
    missing = models.prepare(tmp_path, "dense", tmp_path / "no" / "python")
    assert set(missing) == {
        "BF16.gguf",
        "Q8_0.gguf",
        "Q4_0.gguf",
        "Q4_K_M.gguf",
        "openvino-int8",
        "openvino-int4",
    }
    assert set(missing.values()) == {"not installed: make peers"}
    written = sorted(path.name for path in (tmp_path / "dense").iterdir())
    assert written == ["bf16", "int4-g64", "int4-g64-head", "int8"]
    packed = [name for name in written if "lm_head.weight_packed" in tensors_of(tmp_path / "dense" / name)]
    assert packed == ["int4-g64-head"]


def test_the_tokenizer_of_the_start_is_as_large_as_the_real_one_and_reads_text(tmp_path: Path) -> None:
    from benchmarks.peers import models
    from pureqwen.tokenizer import Tokenizer

    (tmp_path / "source").mkdir()
    models.with_tokenizer(tmp_path / "source", tmp_path / "out")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.encode("Hello, world")
    assert tokenizer.decode(ids) == "Hello, world" and len(ids) < 12
    content = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]
    assert len(content["vocab"]) == 151_643 == len(content["merges"]) + 256
