"""A program: loads checkpoints and prints, as JSON, the peak of its memory over what it had before.

    python loading_peak.py WARM_UP_FOLDER FOLDER:DTYPE ...

Resident memory is anonymous memory plus what is mapped, the weights' files among it. The kernel keeps its
peak (VmHWM); writing 5 to clear_refs sets the peak back to what is resident now. The first folder is loaded
once before, so that the libraries' own pages are there and count for the baseline.
"""

import json
import sys
from pathlib import Path

import torch

from pureqwen.config import ModelConfig
from pureqwen.model import Qwen3
from pureqwen.weights import ahead, load_model


def status(field: str) -> int:
    """Bytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def load(folder: str, dtype: str) -> Qwen3:
    return load_model(folder, ModelConfig.from_pretrained(folder), dtype=dtype)


def touch(model: Qwen3) -> int:
    """Use every page of the weights, as the first answer does."""
    total = 0
    for parameter in model.parameters():
        total += int(parameter.detach().view(-1).view(torch.uint8)[::1024].sum())
    return total


def measure(folder: str, dtype: str) -> dict[str, int]:
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    model = load(folder, dtype)
    loaded = status("VmHWM") - before
    touch(model)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return {"weights": weights, "loading": loaded, "peak": status("VmHWM") - before}


def main(warm_up: str, *cases: str) -> None:
    torch.set_num_threads(1)
    ahead.LEAST = 1 << 60  # loading is measured, not what comes into memory behind it
    for dtype in ("float32", "bfloat16"):
        touch(load(warm_up, dtype))
    print(json.dumps({case: measure(*case.rsplit(":", 1)) for case in cases}))


if __name__ == "__main__":
    main(*sys.argv[1:])
