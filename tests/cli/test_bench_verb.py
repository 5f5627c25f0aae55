"""`pureqwen bench` in this process, on a tiny checkpoint with tiny runs: what it prints, writes, refuses."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint
import torch

from pureqwen import kernels
from pureqwen.cli import make_app
from pureqwen.cli.errors import run
from pureqwen.evaluate import fresh, limits, measure
from pureqwen.evaluate.speed import Plan
from pureqwen.weights.convert import quantize_folder

Bench = Callable[..., Any]
TINY = Plan(prompt=16, answer=2, batch=2, batch_prompt=8, long=40, runs=2, starts=2, buffer=1 << 16)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[fresh.Job]:
    """What fresh processes were asked; they take 3 s to the first token and hold 5 MB."""
    asked: list[fresh.Job] = []

    def answer(job: fresh.Job) -> fresh.Fresh:
        asked.append(job)
        return fresh.Fresh(seconds={"torch": 1.0, "loaded": 2.0, "first": 3.0}, memory=5_000_000)

    monkeypatch.setattr(measure.fresh, "run", answer)
    return asked


@pytest.fixture
def bench(
    jobs: list[fresh.Job], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """`bench("pocket", "--quick")`: exit code, standard output, standard error."""
    monkeypatch.setattr(Plan, "quick", lambda: TINY)
    monkeypatch.setattr(limits, "LONG", 0)  # the smallest products, once
    monkeypatch.setattr(measure, "load", lambda: 0.0)
    threads = torch.get_num_threads()

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = run(make_app(), ["bench", *arguments])
        finally:
            torch.set_num_threads(threads)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_checkpoint.write(tmp_path / "tiny")


def keys(value: Any) -> Any:
    """The keys of an object, and those within it; of a list those of its first item."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else None


SPEED = """name batch cached_tokens tokens seconds tokens_per_second lowest highest flops bytes limit share
    bound"""
SCHEMA = {
    "command": None,
    "versions": dict.fromkeys(("pureqwen", "torch", "python")),
    "machine": dict.fromkeys(("processor", "system", "vectors", "cores", "load", "threads", "device", "gpu")),
    "model": dict.fromkeys(("name", "dtype", "parameters", "weight_bytes", "path")),
    "limits": {
        **dict.fromkeys(("read", "read_by", "copy")),
        "peaks": dict.fromkeys(
            ("float32", "bfloat16", "int8", *(["int4"] if kernels.native() is None else []))
        ),
        "used": dict.fromkeys(("bandwidth", "peak", "dtype")),
    },
    "speeds": [{**dict.fromkeys(SPEED.split()), "seconds": [None]}],
    "start": {
        **dict.fromkeys(("prompt", "torch_imported", "model_loaded", "first_token")),
        "seconds": [None],
    },
    "memory": dict.fromkeys(("held", "weights", "cache", "share")),
    "profile": {
        "kinds": dict.fromkeys(
            (
                "native matrix products",
                "native attention",
                "native norms and gates",
                "matrix products",
                "attention",
                "copies, lookups",
                "norms and elementwise",
                "views and others",
                "between operators",
            )
        ),
        "native": None,
        "watched": None,
    },
}


def test_bench_of_the_pocket_shows_limits_shares_and_the_roofline(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench("--quick", "--profile", "--threads", "1", "--json", str(tmp_path / "x.json"))
    assert (code, err) == (0, "")
    for words in (
        "pocket: 2,624,256 parameters, 10.50 MB, float32 on cpu",
        "1 thread\n",
        "a step runs in ",
        "reading memory, by a",
        "matrix products in float32",
        "prompt of 16 ",
        "2 answers after 8 ",
        "answer after 40 ",
        "start   3.00 s from a new process",
        "memory  5.00 MB while running; weights and cache are 10.57 MB of it, 211%",
        " + operations/s",
        "A prompt of 16   B answer after 16   C 2 answers after 8   D answer after 40",
        "between operators",
    ):
        assert words in out, words
    tables = out.partition("\nstart ")[0].partition("limit of this machine")[2].splitlines()
    assert max(map(len, tables)) <= 80
    assert "\x1b" not in out, "a pipe gets no colours"


def test_the_json_has_every_figure_under_its_frozen_name(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert bench(str(tiny), "--quick", "--json", str(path), "--context", "64")[0] == 0
    found = json.loads(path.read_text())
    assert keys({**found, "profile": {**found["profile"], "native": []}}) == SCHEMA
    assert found["command"] == f"pureqwen bench {tiny} --quick --context 64"
    assert [speed["name"] for speed in found["speeds"]] == ["prefill", "decode", "batch", "long"]
    for speed in found["speeds"]:
        assert speed["lowest"] <= speed["tokens_per_second"] <= speed["highest"]
        assert speed["share"] == pytest.approx(speed["tokens_per_second"] / speed["limit"])
    assert found["start"]["seconds"] == [3.0, 3.0]
    assert found["limits"]["used"]["bandwidth"] == found["limits"]["read"]


def test_fresh_processes_run_what_was_measured_here(bench: Bench, tiny: Path, jobs: list[fresh.Job]) -> None:
    assert bench(str(tiny), "--quick", "--dtype", "bfloat16", "--threads", "1")[0] == 0
    assert [(job.prompt, job.answer) for job in jobs] == [(32, 1), (32, 1), (16, 2)]
    assert {(job.folder, job.dtype, job.device, job.threads) for job in jobs} == {
        (str(tiny), "bfloat16", "cpu", 1)
    }


def test_a_quantised_model_is_measured_in_its_bits(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    quantize_folder(tiny, tmp_path / "small", scheme="int8")
    code, out, _ = bench(str(tmp_path / "small"), "--quick", "--json", str(tmp_path / "x.json"))
    assert code == 0
    speed = json.loads((tmp_path / "x.json").read_text())["speeds"][1]
    assert speed["bytes"] < 60_000, "of 27,000 weights in 8 bits, and a cache in float32"
    assert "a step runs in " in out


def test_a_tiny_context_leaves_out_the_long_text(bench: Bench, tiny: Path) -> None:
    code, out, _ = bench(str(tiny), "--quick", "--context", "4")
    assert code == 0
    assert "prompt of 1 " in out
    assert out.count("answer after 1 ") == 2  # in the table, and under the roofline


def test_a_busy_machine_is_said(bench: Bench, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "OTHER PROGRAMS" not in bench(str(tiny), "--quick")[1]
    monkeypatch.setattr(measure, "load", lambda: 1e3)
    assert "OTHER PROGRAMS WERE RUNNING (load 1000.0 on " in bench(str(tiny), "--quick")[1]


def test_pictures_are_drawn(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, start in (("x.png", b"\x89PNG"), ("x.SVG", b"<?xml")):
        assert bench(str(tiny), "--quick", "--plot", str(tmp_path / name))[0] == 0
        assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plot", "x.gif"], "--plot writes .png and .svg files, not x.gif"),
        (["--plot", "nowhere/x.png"], "there is no folder nowhere to write x.png into"),
        (["--json", "nowhere/x.json"], "there is no folder nowhere to write x.json into"),
        (["--json", "."], ". is a folder: give the name of a file"),
        (["--threads", "0"], "threads is 0: it must be at least 1"),
        (["--context", "3"], "a context of 3 tokens is too short to measure: it takes 4"),
        (["--dtype", "int3"], "int3"),
        (["--device", "abacus"], "device 'abacus' can't be used here"),
        (["./nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(
    arguments: list[str],
    said: str,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jobs: list[fresh.Job],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "measure_limits", lambda *a, **k: pytest.fail("it measured"))
    code, out, err = bench(*arguments)
    assert (code, out, err.count("\n"), jobs) == (1, "", 1, [])
    assert said in err


def test_without_matplotlib_a_plot_names_the_command_that_installs_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["pureqwen.cli.picture"], "find_spec", lambda name: None)
    code, _, err = bench("--plot", "x.png")
    assert (code, err) == (1, "pureqwen: error: --plot needs matplotlib: pip install 'pureqwen[plot]'\n")


def test_a_process_that_fails_is_one_line(bench: Bench, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: fresh.Job) -> fresh.Fresh:
        raise OSError("the process that measures start and memory failed: exit code -9")

    monkeypatch.setattr(measure.fresh, "run", fail)
    code, _, err = bench(str(tiny), "--quick")
    assert (code, err.splitlines()[-1]) == (
        1,
        "pureqwen: error: the process that measures start and memory failed: exit code -9",
    )


def test_a_cache_that_memory_has_no_room_for_is_said(
    bench: Bench, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pureqwen.memory import Memory

    little = Memory(name="main memory", total=10_000, free=2 * 256 * 20)  # 256 bytes a token
    monkeypatch.setattr(sys.modules["pureqwen.cli.bench"], "memories", lambda: [little])
    code, out, err = bench(str(tiny), "--quick")
    assert (code, err) == (0, "pureqwen: notice: main memory has room for a cache of 20 tokens only\n")
    assert "answer after 20 " in out
