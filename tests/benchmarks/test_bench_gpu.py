"""benchmarks/bench_gpu.py, on a CPU: every way is right, the figures come out, and what is wrong is seen."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pureqwen.model import Qwen3

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--device", "cpu", "--shape", "tiny", "--prompt", "6", "--tokens", "8", "--runs", "1"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module. torch.compile runs what it traced as it is: no compiler is needed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module, compile_it = importlib.import_module("bench_gpu"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile_it(f, **{**how, "backend": "eager"}))
    monkeypatch.setattr(module, "BATCHES", (2,))
    return module


def test_the_script_runs_on_a_cpu_and_writes_a_row_for_each_way(bench: ModuleType, tmp_path: Path) -> None:
    bench.main([*SMALL, "--json", str(tmp_path / "gpu.json")])
    result = json.loads((tmp_path / "gpu.json").read_text())
    ways = ["regular", "regular, compiled", "KV cache", "KV cache, compiled"]
    assert [row["way"] for row in result["rows"]] == ways
    assert [check["way"] for check in result["checks"]] == ways
    assert all(check["error"] <= check["allowed"] and check["clear"] > 8 for check in result["checks"])
    for row in result["rows"]:
        for program in ("pureqwen", "transformers"):
            assert float(row[f"{program}, tokens/s"].split(" ")[0].replace(",", "")) > 0
            assert row[f"{program}, share of limit"].endswith(" %")
    assert {"command", "device", "versions"} <= set(result)


def test_a_wrong_way_ends_it(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Qwen3.forward

    def wrong(self: Qwen3, *args: Any, **kwargs: Any) -> Any:
        return right(self, *args, **kwargs) * 1.01

    monkeypatch.setattr(Qwen3, "forward", wrong)
    with pytest.raises(SystemExit, match="wrong: an error of"):
        bench.main(SMALL)


def test_the_limit_counts_each_weight_once_and_of_experts_those_that_are_hit(bench: ModuleType) -> None:
    plan = bench.Plan(device=torch.device("cpu"), dtype=torch.bfloat16, prompt=128, tokens=128)
    one, eight = (bench.Way(batch=b, cached=True, compiled=False) for b in (1, 8))
    dense = bench.config_of("0.6B")
    assert bench.bytes_read(dense, plan, one) == pytest.approx(2 * 596e6 + 192 * 114_688, rel=1e-3)
    expert = 3 * 2048 * 768 * 2 * 8  # bytes of one expert in all layers
    moe = bench.config_of("moe")
    more = bench.bytes_read(moe, plan, eight) - bench.bytes_read(moe, plan, one)
    hit = 64 * (1 - (1 - 1 / 8) ** 8)
    assert more == pytest.approx((hit - 8) * expert + 7 * 192 * 16_384, rel=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_one_line_says_so(bench: ModuleType) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main([])
    assert "finds no CUDA device here" in str(stopped.value)
    assert "\n" not in str(stopped.value)


@pytest.mark.long
def test_with_a_compiler_it_runs_too(tmp_path: Path) -> None:
    """In float32: bfloat16 takes minutes where a processor emulates it."""
    command = [sys.executable, str(BENCHMARKS / "bench_gpu.py"), "--device", "cpu", "--dtype", "float32"]
    done = subprocess.run([*command, "--json", str(tmp_path / "gpu.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert len(rows) == 16
    assert not [row for row in rows if "not here" in row["pureqwen, tokens/s"]]
