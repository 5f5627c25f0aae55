"""Weights are looked at before anybody needs them, where that helps, and nobody waits for it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import peers
import pytest
import torch

from pureqwen.config import ModelConfig
from pureqwen.memory import Memory
from pureqwen.model import Qwen3
from pureqwen.weights import ahead, load_model, save_model
from pureqwen.weights.ahead import read_ahead

needs_smaps = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="there is no /proc/self/smaps")
PROGRAM = """
import sys, threading, time
from pureqwen.config import ModelConfig
from pureqwen.weights import ahead, load_model

def slow(self, tensor, look_at=ahead.Ahead.look_at):
    time.sleep(0.05)
    look_at(self, tensor)

ahead.LEAST, ahead.Ahead.look_at = 0, slow
model = load_model(sys.argv[1], ModelConfig.from_pretrained(sys.argv[1]))
reading = next(thread for thread in threading.enumerate() if thread.name == "read ahead")
print(len([tensor for tensor in reading.tensors if tensor() is not None]), reading.is_alive())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = peers.tiny(vocab_size=8192, hidden_size=1024)  # an embedding of 32 MB
    save_model(Qwen3(config), tmp_path, config=config)
    return tmp_path


def resident(path: Path) -> int:
    """Bytes of the maps of a file that this process has in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    sizes = [next(x for x in lines if x.startswith("Rss:")) for line in lines if line.endswith(str(path))]
    return sum(int(size.split()[1]) * 1024 for size in sizes)


@needs_smaps
@pytest.mark.parametrize("least", [0, 1 << 40])
def test_weights_come_into_memory_though_nobody_asks_for_them(
    folder: Path, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "LEAST", least)
    model = load_model(folder, ModelConfig.from_pretrained(folder))
    for thread in threading.enumerate():
        if thread.name == "read ahead":
            thread.join()
    share = resident(folder / "model.safetensors") / sum(x.nbytes for x in model.parameters())
    assert share > 0.9 if least == 0 else share < 0.5


def test_more_than_fits_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "LEAST", 1000)
    free = 0
    monkeypatch.setattr(ahead, "main_memory", lambda: Memory(name="main memory", total=10**12, free=free))
    weights = [torch.zeros(1000), torch.zeros(10, 10).t(), torch.zeros(10**9, device="meta")]
    assert read_ahead(weights) is None
    free = 4000
    thread = read_ahead(weights)  # only what can be looked at counts
    assert thread is not None
    thread.join()
    assert read_ahead([torch.zeros(10)]) is None


def test_what_is_dropped_meanwhile_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "LEAST", 0)
    read, go_on = [], threading.Event()

    def look_at(self: ahead.Ahead, tensor: torch.Tensor) -> None:
        assert go_on.wait(60)
        read.append(len(tensor))

    monkeypatch.setattr(ahead.Ahead, "look_at", look_at)
    weights = [torch.zeros(n) for n in (1, 2, 3)]
    thread = read_ahead(weights)
    assert thread is not None
    del weights[1]
    go_on.set()
    thread.join()
    assert read == [1, 3]


def test_where_no_thread_can_start_a_model_loads_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ahead, "LEAST", 0)
    monkeypatch.setattr(ahead.Ahead, "start", refuse)
    assert read_ahead([torch.zeros(1000)]) is None
    load_model(folder, ModelConfig.from_pretrained(folder))


def test_a_process_that_ends_meanwhile_ends_well_and_soon(folder: Path) -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True)
    many, alive = done.stdout.split()
    assert (done.returncode, done.stderr, alive) == (0, "", "True")
    assert int(many) * 0.05 > 1, "all was read before the process ended: nothing is shown"
    assert time.monotonic() - started < 60
