"""Weights are looked at before anybody needs them, where that helps, and nobody waits for it."""

import os
import subprocess
import sys
import threading
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
import sys, threading
from pureqwen.config import ModelConfig
from pureqwen.weights import ahead, load_model
ahead.LEAST, ahead.PIECE = 0, 1 << 16
model = load_model(sys.argv[1], ModelConfig.from_pretrained(sys.argv[1]))
print([thread.name for thread in threading.enumerate() if thread.daemon])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ahead")
    config = peers.tiny(vocab_size=8192, hidden_size=1024)  # an embedding of 32 MB
    save_model(Qwen3(config), folder, config=config)
    return folder


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


def test_a_process_that_ends_meanwhile_ends_well(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stderr) == (0, "")
