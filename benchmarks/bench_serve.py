"""pureqwen's server before a crowd, beside llama.cpp's server and transformers' continuous batching.

Random weights of Qwen3-0.6B's shape; prompts of about 128 random tokens, answers of exactly 64, greedy. Each
program holds its model in a process of its own; one is asked while the others wait, turn and turn about.

    at once    32 requests together
    Poisson    32 requests, a quarter of a second between two of them on average
    prefix     16 requests at once, the first 1,000 tokens of all the same: pureqwen with and without sharing
    stall      8 answers are being written when a prompt of 4,000 tokens comes: the longest wait for a token
    bits       32 requests together, pureqwen as it is and with --deterministic

pureqwen and llama.cpp are asked over HTTP, token by token. llama.cpp's server is taken from --llama-server
(make llama-server builds it); where it is not there, its loop is run over the C functions of
llama-cpp-python. Writes results/serve.json; a program that is not there is left out, and the result says why.

    python benchmarks/bench_serve.py [--runs 3] [--only dense prefix stall bits] [--quick]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from bench_loading import device  # noqa: E402

from benchmarks.peers import models  # noqa: E402
from benchmarks.peers.crowd import Crowd, Figures, figures  # noqa: E402
from benchmarks.peers.crowd_server import Answerer, Program  # noqa: E402
from benchmarks.peers.process import Failed  # noqa: E402
from pureqwen.weights.convert import quantize_folder  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "serve.json"
OURS = "pureqwen"
CONTEXT = 6144
CROWDS = (Crowd(name="at once"), Crowd(name="Poisson", gap=0.25))
PREFIX = Crowd(name="prefix", count=16, prompt=32, tokens=16, shared=1000)
STALL = Crowd(name="stall", count=8, tokens=192, late=4000, late_at=8.0)
GROUPS = {"dense": CROWDS, "prefix": (PREFIX,), "stall": (STALL,), "bits": (Crowd(name="bits"),)}
SMALL: dict[str, Any] = {"count": 3, "prompt": 8, "tokens": 6, "ids": 500, "least": 0.0}
Runs = dict[tuple[str, str, int], list[Figures]]  # of a crowd, a program, its bits


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    failures: dict[str, str] = {}
    runs: Runs = {}
    with tempfile.TemporaryDirectory() as temporary:
        logs = Path(temporary)
        folder = logs / "models" if options.quick else options.folder
        prepared(folder, options, failures)
        for group in options.only:
            with held(programs(group, folder, options), logs, options.threads, failures) as answerers:
                for crowd in GROUPS[group]:
                    take(small(crowd) if options.quick else crowd, answerers, options.runs, runs, failures)
    result = {
        "command": command(options),
        "device": device(),
        "versions": versions(),
        "missing": failures,
        "rows": rows_of(runs),
        "bars": bars_of(runs),
        "runs": {
            f"{crowd}: {name}, {bits} bits": [*map(astuple, found)]
            for (crowd, name, bits), found in runs.items()
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("rows", "bars", "missing")}, indent=1))


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3, help="turns that count, of each program at each crowd")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=[*GROUPS])
    parser.add_argument("--bits", nargs="+", type=int, choices=(16, 8), default=[16, 8])
    parser.add_argument("--without", nargs="*", choices=("llama.cpp", "transformers"), default=[])
    parser.add_argument("--quick", action="store_true", help="a tiny model: to see that everything works")
    parser.add_argument("--folder", type=Path, default=ROOT / ".peers" / "models", help="where models lie")
    parser.add_argument("--python", type=Path, default=ROOT / ".peers" / "venv" / "bin" / "python")
    parser.add_argument("--llama-server", type=Path, default=ROOT / ".peers" / "bin" / "llama-server")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    options.folder = options.folder.resolve()
    return options


# ---- models and programs ---------------------------------------------------------------------------------


def prepared(folder: Path, options: argparse.Namespace, failures: dict[str, str]) -> None:
    """The models, in every format, and ours beside a tokenizer whose tokens are all texts."""
    place = folder / "dense"
    shape = models.shape("tiny" if options.quick else "dense")
    models.made(place / "bf16", lambda out: models.write_random(out, shape))
    models.made(place / "int8", lambda out: quantize_folder(place / "bf16", out, scheme="int8"))
    for format in ("bf16", "int8"):
        models.made(
            folder / "serve" / format,
            lambda out, f=format: models.with_tokenizer(place / f, out, texts=True, size=shape.vocab_size),
        )
    if "llama.cpp" in options.without:
        return
    wanted = [("BF16.gguf", [str(place / "bf16")]), ("Q8_0.gguf", [str(place / "BF16.gguf"), "--to", "Q8_0"])]
    for name, given in wanted:
        try:
            models.made(
                place / name,
                lambda out, g=given: models.convert(options.python, "convert_llama", [*g, str(out)]),
            )
        except (OSError, RuntimeError) as error:
            failures[f"llama.cpp {name}"] = str(error)


def programs(group: str, folder: Path, options: argparse.Namespace) -> list[Program]:
    """Who is asked."""
    if group == "dense":
        return dense(folder, options)
    if group == "prefix":
        return beside(folder, 8, "without prefix caching", "--no-prefix-caching")
    each = [beside(folder, bits, "deterministic", "--deterministic") for bits in options.bits]
    return [pair[0] for pair in each] if group == "stall" else [one for pair in each for one in pair]


def beside(folder: Path, bits: int, name: str, flag: str) -> list[Program]:
    """Ours as it is, and with a flag."""
    return [ours(folder, bits), replace(ours(folder, bits, flag), name=f"{OURS} {name}")]


def dense(folder: Path, options: argparse.Namespace) -> list[Program]:
    """Everyone, at the bits that are asked for."""
    found = []
    for bits in options.bits:
        found.append(ours(folder, bits))
        gguf = folder / "dense" / ("BF16.gguf" if bits == 16 else "Q8_0.gguf")
        if "llama.cpp" not in options.without and gguf.exists():
            found.append(llama(gguf, bits, options))
        if "transformers" not in options.without and bits == 16:
            found.append(transformers(folder, options))
    return found


def ours(folder: Path, bits: int, *flags: str) -> Program:
    source = folder / "serve" / ("bf16" if bits == 16 else "int8")

    def command(port: int) -> list[str]:
        words = [sys.executable, "-m", "pureqwen", "serve", str(source), "--served-name", OURS]
        return [*words, "--port", str(port), "--context", str(CONTEXT), *flags]

    return Program(name=OURS, bits=bits, command=command, model=OURS)


def llama(file: Path, bits: int, options: argparse.Namespace) -> Program:
    threads = str(options.threads)
    if not options.llama_server.exists():
        command = (str(options.python), "-m", "benchmarks.peers.crowd_llama", str(file), "--threads", threads)
        return Program(name="llama.cpp, its server's loop", bits=bits, command=command)

    def serve(port: int) -> list[str]:
        slots = ["--parallel", "32", "--ctx-size", str(32 * 512), "--threads", threads]
        return [str(options.llama_server), "--model", str(file), "--port", str(port), *slots, "--no-webui"]

    fields = {"cache_prompt": False}
    return Program(name="llama.cpp's server", bits=bits, command=serve, ready="/health", fields=fields)


def transformers(folder: Path, options: argparse.Namespace) -> Program:
    module, source = "benchmarks.peers.crowd_transformers", str(folder / "dense" / "bf16")
    words = (sys.executable, "-m", module, source, "--dtype", "bfloat16", "--threads", str(options.threads))
    return Program(name="transformers", bits=16, command=words)


@contextmanager
def held(
    programs: Sequence[Program], logs: Path, threads: int, failures: dict[str, str]
) -> Iterator[dict[Program, Answerer]]:
    """The programs, loaded; stopped at the end. One that does not start is left out."""
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }
    running: dict[Program, Answerer] = {}
    try:
        for program in programs:
            say(f"starting {program} ...")
            try:
                running[program] = program.start(logs, environment)
            except Failed as failure:
                failures[str(program)] = str(failure)
                say(f"{program} is left out: {failure}")
        yield running
    finally:
        for answerer in running.values():
            answerer.stop()


# ---- turns and figures -----------------------------------------------------------------------------------


def small(crowd: Crowd) -> Crowd:
    late = {"late": min(crowd.late, 40), "late_at": min(crowd.late_at, 0.02)}
    return replace(crowd, **SMALL, **late, gap=min(crowd.gap, 0.02), shared=min(crowd.shared, 64))


def take(
    crowd: Crowd, answerers: dict[Program, Answerer], runs: int, found: Runs, failures: dict[str, str]
) -> None:
    """Turn and turn about; before, each is asked a little, to warm up."""
    for number in range(runs + 1):
        order = list(answerers) if number % 2 else list(reversed(answerers))
        requests = crowd.requests(number)[: None if number else 2]
        for program in order:
            try:
                got = figures(requests, answerers[program].crowd(requests), least=crowd.least)
            except (Failed, ValueError) as failure:
                failures[str(program)] = str(failure)
                say(f"{program} is left out: {failure}")
                answerers.pop(program).stop()
                continue
            say(f"{crowd.name}, {program}: {got.speed:.1f} tokens/s, first token after {got.first:.2f} s")
            if number:
                found.setdefault((crowd.name, program.name, program.bits), []).append(got)


def rows_of(runs: Runs) -> list[dict[str, Any]]:
    """A row for each crowd and program: medians, and the spread of the speed."""
    return [
        {
            "requests": crowd,
            "program": name,
            "bits": bits,
            "output tokens/s": spread([one.speed for one in found]),
            "first token, s": f"{median(found, 'first'):.2f}",
            "p99": f"{median(found, 'first_99'):.2f}",
            "between tokens, ms": f"{1000 * median(found, 'between'):.0f}",
            "its p99": f"{1000 * median(found, 'between_99'):.0f}",
            "longest": f"{1000 * median(found, 'longest'):.0f}",
            "pureqwen is ahead": ahead(runs, crowd, name, bits),
        }
        for (crowd, name, bits), found in sorted(runs.items(), key=lambda item: (item[0][0], -item[0][2]))
    ]


def ahead(runs: Runs, crowd: str, name: str, bits: int) -> str:
    """How many times the speed of a peer ours is; of the shared prefix, how much sooner it is."""
    mine = runs.get((crowd, OURS, bits))
    if name == OURS or mine is None:
        return ""
    theirs = runs[crowd, name, bits]
    if crowd == PREFIX.name:
        return f"{median(theirs, 'first') / median(mine, 'first'):.1f}"
    return f"{median(mine, 'speed') / median(theirs, 'speed'):.2f}"


def bars_of(runs: Runs) -> list[dict[str, Any]]:
    """What was promised, and what came of it: the least lead over a peer, over all bits and crowds."""
    found = []
    for peer, asked in (("llama.cpp", 1.3), ("transformers", 3.0), (f"{OURS} without", 5.0)):
        leads = [
            float(lead)
            for crowd, name, bits in runs
            if name.startswith(peer)
            if (lead := ahead(runs, crowd, name, bits))
        ]
        least = min(leads, default=None)
        verdict = "not measured" if least is None else "reached" if least >= asked else "not reached"
        found.append({"over": peer, "asked": f"at least {asked:g}", "found": least, "verdict": verdict})
    stalls = [one for key, each in runs.items() if key[0] == STALL.name for one in each]
    waits = [one.longest / one.between for one in stalls if one.between]  # not where all came in one piece
    if waits:
        verdict = "reached" if max(waits) < 3 else "not reached"
        words = "waits for a token: the longest beside 4,000 of a prompt, in medians"
        worst = round(max(waits), 1)
        found.append({"over": words, "asked": "less than 3", "found": worst, "verdict": verdict})
    return found


def median(found: Sequence[Figures], name: str) -> float:
    return statistics.median(getattr(one, name) for one in found)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def command(options: argparse.Namespace) -> str:
    words = ["python benchmarks/bench_serve.py --runs", str(options.runs)]
    words += ["--only", *options.only] if len(options.only) == 1 else []
    words += ["--bits", *map(str, options.bits)] if len(options.bits) == 1 else []
    words += ["--without", *options.without] if options.without else []
    return " ".join([*words, *(["--quick"] if options.quick else [])])


def versions() -> dict[str, str]:
    import transformers

    import pureqwen

    return {
        "pureqwen": pureqwen.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
