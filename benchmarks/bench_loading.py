"""How long loading takes: pureqwen against transformers, on the shape and the file layout of Qwen3-0.6B.

The checkpoint is random, in bfloat16, with the tied head stored as well, as the real one has it (1.5 GB).
Each run is a process of its own, the two programs take turns, and the file lies in the page cache. Two
times are taken, both after the imports: until the model object is there, and until it has computed the
logits of one token (which is when a mapped weight is first read). Writes results/loading.json.

    python benchmarks/bench_loading.py [--runs 7]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

PROGRAMS = ("pureqwen", "transformers")
RESULT = Path(__file__).parent / "results" / "loading.json"


def write_checkpoint(folder: Path) -> None:
    from safetensors.torch import save_file

    from pureqwen.config import ModelConfig
    from pureqwen.model import Qwen3
    from pureqwen.weights import write_json
    from pureqwen.weights.names import EMBEDDING, HEAD, stored_tensors

    config = ModelConfig.preset("Qwen3-0.6B")
    with torch.device("meta"):
        model = Qwen3(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    model.tie()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1) if "norm" in name else parameter.normal_(0, 0.02)
    tensors = stored_tensors(model)
    tensors[HEAD] = tensors[EMBEDDING].clone()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", config.to_dict())


def one_run(program: str, folder: str) -> dict[str, float]:
    """Load in this process; seconds until the model is there, and until the first logits."""
    if program == "pureqwen":
        from pureqwen.config import ModelConfig
        from pureqwen.weights import load_model

        def load() -> Any:
            return load_model(folder, ModelConfig.from_pretrained(folder))
    else:
        from transformers import Qwen3ForCausalLM

        def load() -> Any:
            return Qwen3ForCausalLM.from_pretrained(folder, dtype="auto")

    ids = torch.tensor([[1]])
    start = time.perf_counter()
    model = load()
    loaded = time.perf_counter() - start
    assert next(model.parameters()).dtype == torch.bfloat16
    with torch.inference_mode():
        model(ids)
    return {"loaded": loaded, "first_logits": time.perf_counter() - start}


def measure(folder: Path, runs: int) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {program: [] for program in PROGRAMS}
    for number in range(runs + 1):
        for program in PROGRAMS if number % 2 else reversed(PROGRAMS):
            command = [sys.executable, __file__, "--one", program, "--folder", str(folder)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            if number:  # the first round warms the disk
                found[program].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def rows_of(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    def cell(program: str, key: str) -> str:
        times = [run[key] for run in found[program]]
        return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"

    return [
        {
            "program": program,
            "model is there, s": cell(program, "loaded"),
            "first logits, s": cell(program, "first_logits"),
        }
        for program in PROGRAMS
    ]


def device() -> str:
    """The processor, in words, and the threads that were used."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="a checkpoint to load instead of a random one")
    parser.add_argument("--one", choices=PROGRAMS, help="one run in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_run(options.one, str(options.folder))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "Qwen3-0.6B"
        if not folder.exists():
            write_checkpoint(folder)
        found = measure(folder, options.runs)
    import transformers

    result = {
        "command": f"python benchmarks/bench_loading.py --runs {options.runs}",
        "device": device(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "rows": rows_of(found),
        "runs": found,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["rows"], indent=2))


if __name__ == "__main__":
    main()
