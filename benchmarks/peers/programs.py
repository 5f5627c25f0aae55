"""Who is measured at what: the programs of each group, and the tasks that they are given.

A group's workers run at once and take turns; groups follow each other, for memory holds only so many models.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.rows import OURS, PLAIN

LONG, START, MEMORY = (
    16_384,
    32,
    512,
)  # tokens: in the long cache, before the first token, while memory is read
SCHEMES = {32: ("bf16", "float32"), 16: ("bf16", "bfloat16"), 8: ("int8", "auto"), 4: ("int4-g64", "auto")}
SMALL_HEAD = "int4-g64-head"  # of 4 bits, where that of int4-g64 has 8
PEERS = {
    32: ("transformers float32",),
    16: ("transformers bfloat16", "llama.cpp BF16"),
    8: ("llama.cpp Q8_0", "OpenVINO int8"),
    4: ("llama.cpp Q4_0", "llama.cpp Q4_K_M", "OpenVINO int4"),
}


@dataclass(frozen=True, kw_only=True)
class Program:
    """One worker's command. `name` is what it is called in a row; `format` the file that it needs."""

    name: str
    kind: str
    bits: int
    format: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        ours = {OURS: "pureqwen", PLAIN: "pureqwen without native code"}
        name = f"{ours[self.name]}, {self.bits} bits" if self.name in ours else self.name
        name += ", the head too" if self.format == SMALL_HEAD else ""
        return f"MoE: {name}" if self.kind == "moe" else name


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every program of these bits does in its turn.

    again: compute the prompt anew in each turn, and measure that too; else once, and go on from there.
    cached: begin with a cache of so many random tokens instead of a prompt.
    """

    what: str
    prompt: int
    bits: tuple[int, ...]
    batch: int = 1
    steps: int = 12
    again: bool = False
    cached: bool = False


@dataclass(frozen=True, kw_only=True)
class Group:
    """Programs that are measured together; kind: dense or moe."""

    name: str
    kind: str
    programs: Sequence[Program]
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True)
class Places:
    """Where the models lie, with which Python the peers run, and with how many threads everyone does."""

    folder: Path
    python: Path
    threads: int


def groups(places: Places) -> list[Group]:
    """All there is to measure, in the order in which it is."""
    dense = everyone(places, "dense", (32, 16, 8, 4))
    mine = [one for one in dense if one.name in (OURS, PLAIN) and one.bits < 32]
    eight = [one for one in dense if one.bits == 8]
    start = [
        _with(one, one.format, places.folder / "start") if one.name in (OURS, PLAIN) else one for one in eight
    ]
    four = [one for one in dense if one.bits == 4 and one.name != PLAIN and "OpenVINO" not in one.name]
    small = [_with(one, SMALL_HEAD, places.folder / "dense") if one.name == OURS else one for one in four]
    few = [one for one in dense if one.bits < 32 and one.name != PLAIN]
    alone = [one for one in dense if (one.name, one.bits) == (PLAIN, 32)]  # no one is compared with it
    together = [one for one in dense if one not in alone]
    found = [
        Group(name="dense", kind="dense", programs=together, tasks=DENSE),
        Group(name="dense", kind="dense", programs=alone, tasks=DENSE[:1]),
        Group(name="dense", kind="dense", programs=small, tasks=(HEAD,)),
        Group(name="long", kind="dense", programs=mine, tasks=(CACHED,)),
        Group(name="start", kind="dense", programs=start),
        Group(name="memory", kind="dense", programs=few),
    ]
    for bits in (16, 8, 4):
        programs = everyone(places, "moe", (bits,))
        found.append(Group(name="moe", kind="moe", programs=programs, tasks=moe_tasks(bits)))
    return found


DENSE = (
    Task(what="decode", prompt=512, bits=(32, 16, 8, 4), again=True),
    Task(what="decode", prompt=128, bits=(16, 8, 4), batch=8, steps=6),
    Task(what="decode", prompt=128, bits=(8,), batch=32, steps=4),
)
HEAD = Task(what="decode, the head too", prompt=512, bits=(4,))
CACHED = Task(what="long decode", prompt=LONG, bits=(16, 8, 4), steps=6, cached=True)


def moe_tasks(bits: int) -> tuple[Task, ...]:
    """Shorter prompts before the batches: what is measured is what follows them."""
    return (
        Task(what="MoE decode", prompt=512, bits=(bits,), again=True),
        Task(what="MoE decode", prompt=16, bits=(bits,), batch=8, steps=6),
        Task(what="MoE decode", prompt=16, bits=(bits,), batch=32, steps=4),
    )


def quick(task: Task) -> Task:
    """The same in seconds: to see that it works, not how fast."""
    return replace(task, prompt=max(8, task.prompt // 16), steps=2, batch=min(task.batch, 4))


def everyone(places: Places, kind: str, wanted: Sequence[int]) -> list[Program]:
    """Ours with and without native code, and the peers, at these bits."""
    place, found = places.folder / kind, []

    def add(name: str, bits: int, format: str, module: str, *options: str) -> None:
        python = sys.executable if module in ("run_pureqwen", "run_transformers") else str(places.python)
        words = (str(place / format), *options, "--threads", str(places.threads))
        command = (python, "-m", f"benchmarks.peers.{module}", *words)
        found.append(Program(name=name, kind=kind, bits=bits, format=format, command=command))

    for bits in wanted:
        format, dtype = SCHEMES[bits]
        add(OURS, bits, format, "run_pureqwen", "--dtype", dtype)
        add(PLAIN, bits, format, "run_pureqwen", "--dtype", dtype, "--plain")
        for name in peers_of(kind, bits):
            family, variant = name.split()
            if family == "transformers":
                add(name, bits, format, "run_transformers", "--dtype", variant)
            elif family == "llama.cpp":
                add(name, bits, f"{variant}.gguf", "run_llama")
            else:
                add(name, bits, f"openvino-{variant}", "run_openvino")
    return found


def peers_of(kind: str, bits: int) -> tuple[str, ...]:
    """Who is measured beside us; of the mixture of experts fewer."""
    if kind == "dense":
        return PEERS[bits]
    return tuple(n for n in PEERS[bits] if not n.startswith("OpenVINO") and n != "llama.cpp Q4_K_M")


def _with(program: Program, format: str, folder: Path) -> Program:
    """The same with another model: that of `format` in `folder`."""
    command = (*program.command[:3], str(folder / format), *program.command[4:])
    return replace(program, format=format, command=command)
