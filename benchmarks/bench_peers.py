"""pureqwen against transformers, llama.cpp and OpenVINO, and all against what the machine allows.

Random weights of Qwen3-0.6B's shape and of a small mixture of experts. Each program is a process that holds
its model; one computes while the others wait, turn and turn about, so that a machine that slows down slows
them all. How fast memory is read is measured before each turn of ours, and how fast matrices are multiplied
before each group. Groups:

    dense    a prompt of 512 and what follows, in 4 bits also with the head in 4 bits; batches of 8 and 32
    long     one token with 16,384 in the cache: pureqwen alone, against the read limit
    start    from the start of a process to its first token, 8 bits from disk
    memory   the most that a prompt of 512 and some tokens take
    moe      as dense, for the mixture of experts

Writes results/peers.json; with --only, the rows of the other groups stay in it as they are. Peers run in an
environment of their own (make peers); one that is not there is left out, and the result says why.

    python benchmarks/bench_peers.py [--runs 3] [--skip-moe] [--only dense long]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.peers

from benchmarks.peers import limits, models, turns  # noqa: E402
from benchmarks.peers.programs import MEMORY, START, Group, Places, groups, quick  # noqa: E402
from benchmarks.peers.rows import Key, merged, rows_of  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "peers.json"
NAMES = ("dense", "long", "start", "memory", "moe")
WEIGHED = 8  # tokens after the prompt, while memory is read


def main() -> None:
    options = parsed()
    places = Places(options.folder, options.python, options.threads)
    torch.set_num_threads(options.threads)
    wanted = [group for group in groups(places) if group.name in options.only]
    unmade: dict[str, dict[str, str]] = {
        kind: models.prepare(places.folder, kind, places.python)
        for kind in dict.fromkeys(group.kind for group in wanted)
    }
    with tempfile.TemporaryDirectory() as logs:
        bench = turns.Bench(Path(logs), options.threads)
        machine = limits.Machine()
        during: dict[Key, limits.Machine] = {}
        for group in wanted:
            machine.sample_products()
            machine.sample_reading()
            run(bench, able(bench, group, unmade[group.kind]), options, machine, during)
        machine.sample_products()
        machine.sample_reading()
        limit = {key: limit_of(key, bench, during.get(key, machine), places.folder) for key in bench.found}
    rows, runs = rows_of(bench.found, limit)
    result = {
        "command": command(options),
        "machine": described(machine, options.threads),
        "versions": bench.versions(),
        "missing": bench.missing(),
        "rows": rows,
        "runs": runs,
    }
    old = json.loads(options.out.read_text()) if options.out.exists() and not is_whole(options) else None
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(merged(old, result), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))
    print(f"wrote {options.out}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3, help="turns that count, of each program at each task")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="these groups")
    parser.add_argument("--skip-moe", action="store_true", help="without the mixture of experts")
    parser.add_argument("--quick", action="store_true", help="short prompts: to see that everything works")
    parser.add_argument("--folder", type=Path, default=ROOT / ".peers" / "models", help="where models lie")
    parser.add_argument("--python", type=Path, default=ROOT / ".peers" / "venv" / "bin" / "python")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if options.skip_moe:
        options.only = [name for name in options.only if name != "moe"]
    if options.out is None:
        options.out = options.folder / "quick.json" if options.quick else RESULT
    return options


def is_whole(options: argparse.Namespace) -> bool:
    return set(options.only) == set(NAMES)


def able(bench: turns.Bench, group: Group, unmade: dict[str, str]) -> Group:
    """The group without the programs whose files could not be made."""
    bench.begin(group.name)
    for program in group.programs:
        if program.format in unmade:
            bench.leave_out(program, unmade[program.format])
    return replace(group, programs=[program for program in group.programs if program not in bench.broken])


def run(
    bench: turns.Bench,
    group: Group,
    options: argparse.Namespace,
    machine: limits.Machine,
    during: dict[Key, limits.Machine],
) -> None:
    """Every task of a group; `during` gets the machine as it was while a row was measured."""
    turns.say(f"-- {group.name}")
    runs = 1 if options.quick else options.runs
    if group.name == "start":
        bench.begin_anew(group.programs, START, runs)
    elif group.name == "memory":
        bench.weigh(group.programs, MEMORY, WEIGHED)
    else:
        with bench.held(group.programs):
            for number, task in enumerate(group.tasks):
                bench.keep({bits for later in group.tasks[number:] for bits in later.bits})
                own, known = machine.of_a_task(), set(bench.found)
                bench.take(quick(task) if options.quick else task, runs, own.sample_reading)
                if not own.read:  # all of ours were slow, and left after one turn
                    own.sample_reading()
                machine.read += own.read
                during.update(dict.fromkeys(bench.found.keys() - known, own))


def limit_of(key: Key, bench: turns.Bench, machine: limits.Machine, folder: Path) -> float | None:
    """What the machine allows at best, in the unit of the key. None where ours was not measured."""
    if key.what == "start-up":
        return statistics.median(turns.importing_torch() for _ in range(3))
    mine = bench.ours.get(key)
    if mine is None:
        return None
    return limits.limit(key, machine, folder / mine.kind / mine.format, bench.facts[mine]["dtype"])


def command(options: argparse.Namespace) -> str:
    words = ["python benchmarks/bench_peers.py --runs", str(options.runs)]
    words += ["--quick"] if options.quick else []
    words += [] if is_whole(options) else ["--only", *options.only]
    return " ".join(words)


def described(machine: limits.Machine, threads: int) -> dict[str, Any]:
    """The processor, and what was measured of it."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": name,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory in GB": round(pages / 1e9, 1),
        "read in GB/s": round(machine.bandwidth / 1e9, 1),
        **{f"product of {name} in GOP/s": round(speed / 1e9, 1) for name, speed in machine.fastest.items()},
    }


if __name__ == "__main__":
    main()
