"""Inside a worker: a program that holds its model and answers commands, one JSON a line.

    bench                                            worker
    {"do": "load"}                                   {"seconds": 1.2, "facts": {"dtype": "bfloat16", ...}}
    {"do": "prefill", "prompt": 512, "batch": 1}     {"seconds": 2.1}         to the first token of each row
    {"do": "decode", "steps": 12}                    {"seconds": [0.06, ...]}           goes on where it was
    {"do": "fill", "tokens": 16384}                  {}                   a cache of random keys and values
    {"do": "crowd", "requests": [...]}               {"times": [[0.2, ...], ...]}   of each answer's tokens
    {"do": "memory"}                                 {"bytes": 9e8}       the most since `load`, less what was

What fails is answered {"error": why}, and the worker goes on. Whatever the program prints goes to standard
error, so that the answers stay a line each. It needs nothing but Python: peers live in an environment of
their own.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TextIO

IDS = 150_000  # of Qwen3's 151,936 ids: those that stand for text
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
HELD = "VmRSS:"  # anonymous memory and the pages of files that are mapped
MOST = "VmHWM:"  # the most of it


class Program(Protocol):
    """What a worker holds. Making it imports all that it needs; `load` reads the model."""

    def load(self) -> dict[str, Any]: ...

    def prefill(self, prompts: list[list[int]]) -> None:
        """Forget what there was, compute these and choose the next token of each."""
        ...

    def step(self) -> None:
        """One more token for each."""
        ...


def prompts(length: int, batch: int, seed: int) -> list[list[int]]:
    """Random ids, the same for every program."""
    draw = random.Random(f"{seed} {batch} {length}")
    return [[draw.randrange(IDS) for _ in range(length)] for _ in range(batch)]


def timed(run: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - started


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def serve(make: Callable[[], Program], commands: Iterable[str], answers: TextIO) -> None:
    """Answer every command; the program is made when the first comes."""
    held = Held(make)
    for line in commands:
        try:
            answer = held.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".split("\n")[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Held:
    """The program, made once, and how much memory there was before its model."""

    def __init__(self, make: Callable[[], Program]) -> None:
        self.make = make
        self.program: Program | None = None
        self.before = 0

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        if self.program is None:
            self.program = self.make()
        program: Any = self.program
        match command["do"]:
            case "load":
                self.before = memory(HELD)
                CLEAR.write_text("5")  # the most begins here
                started = time.perf_counter()
                facts = program.load()
                return {"seconds": time.perf_counter() - started, "facts": facts}
            case "prefill":
                rows = prompts(command["prompt"], command["batch"], command.get("seed", 0))
                return {"seconds": timed(program.prefill, rows)}
            case "decode":
                return {"seconds": [timed(program.step) for _ in range(command["steps"])]}
            case "fill":
                program.fill(prompts(command["tokens"], 1, 0)[0])
                return {}
            case "crowd":
                return {"times": program.crowd(command["requests"])}
            case "memory":
                return {"bytes": memory(MOST) - self.before}
            case other:
                raise ValueError(f"no such command: {other}")


def main(make: Callable[[], Program]) -> None:
    """Serve on standard input and output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(make, sys.stdin, answers)
