"""How fast a prompt is read and an answer is written: pureqwen against transformers, Qwen3-0.6B's shape.

Random weights, batch 1, all models in one process with the same threads, turn and turn about: a prompt of 512
tokens is computed with its cache, then 32 tokens are decoded greedily. transformers runs with its defaults
(SDPA attention, dynamic cache). The dtype of both is bfloat16 where the processor is quick in it, else
float32; pureqwen runs again with weights in 8 and in 4 bits. Writes results/generation.json.

    python benchmarks/bench_generation.py [--runs 5] [--dtype bfloat16]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_loading import device, write_checkpoint

from pureqwen.kernels import fast_bfloat16
from pureqwen.weights.convert import quantize_folder

PROMPT, ANSWER = 512, 32
SCHEMES = ("int8", "int4-g64")
RESULT = Path(__file__).parent / "results" / "generation.json"


Run = Callable[[], tuple[float, float]]


def pureqwen_run(folder: Path, dtype: str) -> Run:
    import pureqwen

    qwen = pureqwen.load(folder, dtype=dtype)

    def run() -> tuple[float, float]:
        prompt = torch.randint(0, 150_000, (PROMPT,)).tolist()  # a new one: nothing is found in the cache
        timings = qwen.generate(prompt, temperature=0, max_tokens=ANSWER + 1, ignore_eos=True).timings
        return timings.prompt_seconds, timings.decode_seconds

    return run


def transformers_run(folder: Path, dtype: str) -> Run:
    from transformers import DynamicCache, Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))

    @torch.inference_mode()
    def run() -> tuple[float, float]:
        ids, cache = torch.randint(0, 150_000, (1, PROMPT)), DynamicCache(config=model.config)
        started = time.perf_counter()
        ids = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(ANSWER):
            ids = model(input_ids=ids, past_key_values=cache).logits[:, -1:].argmax(-1)
        return first - started, time.perf_counter() - first

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16" if fast_bfloat16() else "float32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "Qwen3-0.6B"
        write_checkpoint(folder)
        programs = {
            f"pureqwen, {options.dtype}": pureqwen_run(folder, options.dtype),
            f"transformers, {options.dtype}": transformers_run(folder, options.dtype),
        }
        for scheme in SCHEMES:
            small = Path(temporary) / scheme
            quantize_folder(folder, small, scheme=scheme)
            programs[f"pureqwen, {scheme}"] = pureqwen_run(small, options.dtype)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for number in range(options.runs + 1):
            for name, run in programs.items() if number % 2 else reversed(programs.items()):
                times = run()
                if number:  # the first round warms up
                    found[name].append(times)
    import transformers

    result = {
        "command": f"python benchmarks/bench_generation.py --runs {options.runs} --dtype {options.dtype}",
        "device": device(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "rows": [row(name, times) for name, times in found.items()],
        "runs": found,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["rows"], indent=2))


def row(name: str, times: list[tuple[float, float]]) -> dict[str, Any]:
    def cell(tokens: int, seconds: list[float]) -> str:
        speeds = sorted(tokens / s for s in seconds)
        return f"{statistics.median(speeds):.1f} ({speeds[0]:.1f} to {speeds[-1]:.1f})"

    prompts, answers = zip(*times, strict=True)
    return {
        "program": name,
        f"prompt of {PROMPT}, tokens/s": cell(PROMPT, list(prompts)),
        f"answer of {ANSWER}, tokens/s": cell(ANSWER, list(answers)),
    }


if __name__ == "__main__":
    main()
