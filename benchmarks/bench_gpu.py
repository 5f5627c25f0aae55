"""A text continued on a GPU: with and without cache, as written and compiled, beside transformers.

Random weights in the shape of Qwen3-0.6B and of a small mixture of experts; one text and eight at once. First
every way must be right. In float32: the logits of transformers, and its tokens. In bfloat16: against
transformers in float32 its error is at most 1.1 times that of transformers in bfloat16, and its best token is
the same wherever the margin exceeds the error (of a mixture, whose routes differ by rounding, that may be
nowhere). Then each way is measured by itself: one model on the device, medians of all steps but the
first, which holds the prompt. The limit of a step is reading its weights, keys and values once, at the
bandwidth of a copy that is measured here. Writes results/gpu.json.

    python benchmarks/bench_gpu.py [--tokens 128]
    python benchmarks/bench_gpu.py --device cpu             the same code on a tiny shape; writes nothing
"""

import argparse
import gc
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ways import LOAD, RUN, Begin, Plan, Way, Written, ways, write

import pureqwen
from pureqwen import ModelConfig, Qwen, Qwen3
from pureqwen.cache import bytes_per_token
from pureqwen.model import Experts

RESULT = Path(__file__).parent / "results" / "gpu.json"
BATCHES = (1, 8)
CHECKED = 32  # tokens

EXPERTS = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
SMALL_MOE = EXPERTS | {
    "hidden_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_experts": 64,
    "moe_intermediate_size": 768,
}
TINY = {
    "vocab_size": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,
}
TINY_MOE = TINY | EXPERTS | {"num_experts": 16, "moe_intermediate_size": 32}
# What differs from Qwen3-0.6B. With its initializer_range of 0.02 random weights write one token for ever.
SHAPES: dict[str, dict[str, Any]] = {"0.6B": {}, "moe": SMALL_MOE, "tiny": TINY, "tiny-moe": TINY_MOE}


def config_of(shape: str) -> ModelConfig:
    fields = ModelConfig.preset("Qwen3-0.6B").to_dict() | {"initializer_range": 0.1}
    return ModelConfig.from_dict(fields | SHAPES[shape])


@torch.inference_mode()
def write_random(folder: Path, shape: str, plan: Plan) -> None:
    """A checkpoint that both programs read; norms are not 1, which would hide mistakes."""
    torch.manual_seed(0)
    model = Qwen3(config_of(shape)).to(plan.dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
    Qwen(model).save(folder)


def prompts(config: ModelConfig, plan: Plan, batch: int) -> list[list[int]]:
    """Random ones, always the same."""
    generator = torch.Generator().manual_seed(1)
    ids: list[list[int]] = torch.randint(
        0, config.vocab_size, (batch, plan.prompt), generator=generator
    ).tolist()
    return ids


# Right?


def check(folder: Path, shape: str, plan: Plan) -> list[dict[str, Any]]:
    """Every way of ours against transformers in float32. SystemExit where one is wrong."""
    config, eager = config_of(shape), Way(batch=2, cached=True, compiled=False)
    asked, count = prompts(config, plan, 2), min(CHECKED, plan.tokens)

    def teach(program: str, dtype: torch.dtype, way: Way, like: list[list[int]] | None) -> Written:
        model = LOAD[program](folder, plan, dtype)
        with RUN[program](model, plan, way) as begin:
            return write(begin(), asked, count, like=like, keep=True)

    exact = teach("transformers", torch.float32, eager, None)
    if min(len(set(text[plan.prompt :])) for text in exact.texts) < count * 3 // 8:
        raise SystemExit(f"{shape}: these weights write the same token over and over, which proves nothing")
    peer = teach("transformers", plan.dtype, eager, exact.texts)
    blurred = config.num_experts > 0 and plan.dtype != torch.float32  # routes differ by rounding
    found = []
    for way in ways(2):
        mine = teach("pureqwen", plan.dtype, way, exact.texts)
        found.append(
            {"shape": shape, "way": str(way), **verdict(mine, exact, peer, plan.dtype, blurred=blurred)}
        )
        forget()
        print(f"{shape}, {way}: {found[-1]}", flush=True)
    return found


def verdict(
    mine: Written, exact: Written, peer: Written, dtype: torch.dtype, *, blurred: bool
) -> dict[str, Any]:
    """The errors and how many tokens could be told apart; where all is blurred that may be none. SystemExit
    where one is wrong.
    """
    assert mine.logits is not None and exact.logits is not None and peer.logits is not None
    off = (mine.logits - exact.logits).abs()  # (steps, B, V)
    error, theirs = (x.square().mean().sqrt().item() for x in (off, peer.logits - exact.logits))
    best, second = exact.logits.topk(2).values.unbind(-1)
    clear = best - second > 2 * off.amax(-1)
    same = mine.logits.argmax(-1) == exact.logits.argmax(-1)
    allowed = 1.1 * theirs
    if dtype == torch.float32:
        error, allowed = off.max().item(), 2e-5 * exact.logits.abs().max().item()
    if error > allowed:
        raise SystemExit(f"wrong: an error of {error:.3g}, where {allowed:.3g} is allowed")
    if not (clear.any() or blurred) or not same[clear].all():
        raise SystemExit(f"wrong: {same[clear].sum()} of {clear.sum()} tokens are transformers'")
    return {"error": error, "allowed": allowed, "clear": int(clear.sum()), "tokens": clear.numel()}


# Fast?


def measure(folder: Path, shape: str, plan: Plan, runs: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of a shape: each way of pureqwen, then also that of transformers beside it."""
    config, bandwidth = config_of(shape), copy_bandwidth(plan.device)
    rows = {way: {"shape": shape, "batch": way.batch, "way": str(way)} for way in ways(*BATCHES)}
    for program in LOAD:
        model = LOAD[program](folder, plan, plan.dtype)
        for way, row in rows.items():
            asked = prompts(config, plan, way.batch)
            floor = bytes_read(config, plan, way) / bandwidth
            try:
                with RUN[program](model, plan, way) as begin:
                    row |= {f"{program}{k}": v for k, v in figures(begin, asked, plan, runs, floor).items()}
            except Exception as error:
                if program == "pureqwen":
                    raise
                row[f"{program}, tokens/s"] = f"not here: {type(error).__name__}"
            forget()
            print(row, flush=True)
        del model
        forget()
        yield list(rows.values())


def figures(begin: Begin, asked: list[list[int]], plan: Plan, runs: int, floor: float) -> dict[str, str]:
    """The cells of one way: `runs` runs of which each is worth the median of its steps."""
    on_gpu = plan.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    write(begin(), asked, 3)
    first = time.perf_counter() - began
    steps = [statistics.median(write(begin(), asked, plan.tokens).seconds[1:]) for _ in range(runs)]
    speeds = sorted(len(asked) / step for step in steps)
    cells = {
        ", tokens/s": f"{statistics.median(speeds):,.0f} ({speeds[0]:,.0f} to {speeds[-1]:,.0f})",
        ", share of limit": f"{100 * floor / statistics.median(steps):.0f} %",
        ", first call, s": f"{first:.1f}",
    }
    if on_gpu:
        cells[", peak memory, GiB"] = f"{torch.cuda.max_memory_allocated() / 2**30:.2f}"
    return cells


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes: the best of ten, of 1 GiB on a GPU."""
    size = 2**30 if device.type == "cuda" else 2**26
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        began = time.perf_counter()
        target.copy_(source)
        target[-1].item()  # waits for the device
        best = max(best, 2 * size / (time.perf_counter() - began))
    return best


def bytes_read(config: ModelConfig, plan: Plan, way: Way) -> float:
    """What a step of a way can't do without: the weights, of experts those that are hit, and its cache."""
    with torch.device("meta"):
        model = Qwen3(config)
    numbers = float(sum(parameter.numel() for parameter in model.parameters()))
    if not config.tie_word_embeddings:
        numbers -= model.model.embed_tokens.weight.numel()  # a row is looked up
    rows = way.batch if way.cached else way.batch * plan.prompt
    for module in model.modules():
        if isinstance(module, Experts):
            idle = (1 - config.num_experts_per_tok / config.num_experts) ** rows
            numbers -= idle * sum(parameter.numel() for parameter in module.parameters())
    seen = way.batch * (plan.prompt + plan.tokens / 2) if way.cached else 0  # tokens, in the median step
    return numbers * plan.dtype.itemsize + seen * bytes_per_token(config, plan.dtype)


def forget() -> None:
    """Graphs and freed memory: the next way begins as the first did."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{platform.machine()} cpu, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def chosen(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--shape", choices=SHAPES, nargs="+", help="default: 0.6B moe; on a CPU the tiny ones"
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: float32 on a CPU")
    parser.add_argument("--prompt", type=int, help="tokens; default 128, on a CPU 16")
    parser.add_argument("--tokens", type=int, help="to write; default 128, on a CPU 16")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--json", type=Path, help="where the figures go; default results/gpu.json, on a CPU none"
    )
    options = parser.parse_args(arguments)
    small = options.device == "cpu"
    options.shape = options.shape or (["tiny", "tiny-moe"] if small else ["0.6B", "moe"])
    options.dtype = options.dtype or ("float32" if small else "bfloat16")
    options.prompt, options.tokens = (n or (16 if small else 128) for n in (options.prompt, options.tokens))
    options.json = options.json or (None if small else RESULT)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = chosen(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} finds no CUDA device here; --device cpu runs the same code, tiny"
        )
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    plan = Plan(device=device, dtype=dtype, prompt=options.prompt, tokens=options.tokens)
    result = about(options, device)
    with tempfile.TemporaryDirectory() as temporary:
        folders = {shape: Path(temporary) / shape for shape in options.shape}
        for shape, folder in folders.items():
            write_random(folder, shape, plan)
            result["checks"] += check(folder, shape, plan)
        for shape, folder in folders.items():
            done = result["rows"]
            for rows in measure(folder, shape, plan, options.runs):
                result["rows"] = done + rows
                if options.json is not None:  # as far as it got, should the device be taken away
                    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["rows"], indent=2))


def about(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The result, before anything is measured."""
    import transformers

    asked = f"--device {options.device} --shape {' '.join(options.shape)} --dtype {options.dtype}"
    sizes = f"--prompt {options.prompt} --tokens {options.tokens} --runs {options.runs}"
    return {
        "command": f"python benchmarks/bench_gpu.py {asked} {sizes}",
        "device": f"{device_name(device)}, copies at {copy_bandwidth(device) / 1e9:,.0f} GB/s",
        "versions": {
            "pureqwen": pureqwen.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "checks": [],
        "rows": [],
    }


if __name__ == "__main__":
    main()
