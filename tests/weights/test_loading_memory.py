"""Loading holds the weights once (PITFALLS 33): its peak is at most the weights and a tenth."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from safetensors.torch import load_file, save_file

from pureqwen.config import ModelConfig
from pureqwen.model import Qwen3
from pureqwen.weights import save_model

SHAPE: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
MOE: dict[str, Any] = {
    **SHAPE,
    **peers.MOE,
    "num_experts": 16,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 2,
}
CASES = {
    "bf16 file to bf16": ("dense", "auto"),
    "float32 file to bf16": ("wide", "bfloat16"),
    "bf16 shards to float32": ("sharded", "float32"),
    "experts of one file each into stacks": ("moe", "auto"),
    "experts, converted": ("moe", "float32"),
    "tied head stored as well": ("tied", "auto"),
}


def write(folder: Path, config: ModelConfig, dtype: torch.dtype, *, shard: int = 10**9) -> None:
    with torch.device("meta"):
        model = Qwen3(config)
    model.to_empty(device="cpu").to(dtype)
    model.tie()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    save_model(model, folder, config=config, max_shard_bytes=shard)


def measure(root: Path) -> dict[str, dict[str, int]]:
    """case -> weights, the peak when loaded, the peak when every page was used; in bytes."""
    write(root / "tiny", peers.tiny(**peers.MOE), torch.float32)
    dense, moe = peers.tiny(**SHAPE), peers.tiny(**MOE)
    write(root / "dense", dense, torch.bfloat16)
    write(root / "wide", dense, torch.float32)
    write(root / "sharded", dense, torch.bfloat16, shard=25_000_000)
    write(root / "moe", moe, torch.bfloat16)
    write(root / "tied", dense, torch.bfloat16)
    tensors = load_file(root / "tied/model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, root / "tied/model.safetensors")
    tensors.clear()
    cases = [f"{root / folder}:{dtype}" for folder, dtype in CASES.values()]
    program = [sys.executable, str(Path(__file__).with_name("loading_peak.py")), str(root / "tiny"), *cases]
    # glibc would keep the memory of one case for the next, which then seems to need less than it does.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    done = subprocess.run(program, check=True, capture_output=True, text=True, env=env)
    return dict(zip(CASES, json.loads(done.stdout).values(), strict=True))


@pytest.mark.long
@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read from Linux's /proc"
)
def test_loading_peaks_at_the_weights_and_not_at_two_copies(tmp_path: Path) -> None:
    peaks = measure(tmp_path)
    for case, found in peaks.items():
        assert found["weights"] > 70e6, case
        assert 0.9 * found["weights"] <= found["peak"] <= 1.1 * found["weights"], (case, found)
    mapped = peaks["bf16 file to bf16"]
    assert mapped["loading"] <= 0.05 * mapped["weights"], "without a conversion nothing is read yet"
