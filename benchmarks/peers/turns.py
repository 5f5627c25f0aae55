"""Workers that take turns: one computes, the others hold their models and wait.

    round 0   A B C      warms up
    round 1   C B A      counts, like all that follow; the order is turned round each time
    round 2   A B C

Rounds of steps alone follow, without prompts, which take seconds: steps take a moment, soon disturbed.
Who would need longer than SLOW for another turn is asked once more, should the machine have been busy; if
that takes as long it counts, and is the last one. Peers that slow are not asked for batches. A worker that
fails is left out from then on, with its reason.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.process import Failed, Worker
from benchmarks.peers.programs import Program, Task
from benchmarks.peers.rows import OURS, PLAIN, Key

SLOW = 15.0  # seconds
STEPS_ALONE = 3  # rounds of them for each that counts
# The number of a turn that repeats another. No round's: who saw a prompt before need not compute it.
AGAIN = -1
PAUSE = 0.2  # seconds between turns, for threads that wait by counting to fall asleep
ROOT = Path(__file__).parents[2]

Values = dict[Key, dict[str, list[float]]]


class Bench:
    """What was measured so far, and why some of it was not."""

    def __init__(self, logs: Path, threads: int) -> None:
        self.logs, self.threads = logs, threads
        self.found: Values = {}
        self.failures: dict[tuple[str, str], list[str]] = {}  # (program, why): the groups
        self.group = ""
        self.facts: dict[Program, dict[str, Any]] = {}
        self.ours: dict[Key, Program] = {}  # which of ours a row is about
        self.workers: dict[Program, Worker] = {}
        self.broken: set[Program] = set()
        self.slow: dict[Program, float] = {}

    def start(self, program: Program) -> Worker:
        """A fresh worker; nothing is loaded yet."""
        environment = {
            "OMP_NUM_THREADS": str(self.threads),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(ROOT),
        }
        log = self.logs / f"{time.monotonic_ns()}.log"
        return Worker(program.command, log=log, environment=environment)

    @contextmanager
    def held(self, programs: Sequence[Program]) -> Iterator[None]:
        """Workers with their models loaded, one after the other; stopped at the end."""
        try:
            for program in programs:
                with self.excused(program):
                    self.workers[program] = self.start(program)
                    self.load(program, self.workers[program])
            yield
        finally:
            for worker in self.workers.values():
                worker.stop()
            self.workers.clear()

    def keep(self, bits: set[int]) -> None:
        """Stop the workers of other bits: nothing more is asked of them, and memory is short."""
        for program in [program for program in self.workers if program.bits not in bits]:
            self.workers.pop(program).stop()

    def load(self, program: Program, worker: Worker) -> None:
        self.facts[program] = worker.ask("load")["facts"]

    @contextmanager
    def excused(self, program: Program) -> Iterator[None]:
        """A failure leaves this program out, and says why."""
        try:
            yield
        except Failed as error:
            self.leave_out(program, str(error))

    def leave_out(self, program: Program, why: str) -> None:
        say(f"{program} is left out: {why}")
        self.failures.setdefault((str(program), why), []).append(self.group)
        self.broken.add(program)
        if worker := self.workers.pop(program, None):
            worker.stop()

    def add(self, key: Key, program: Program, value: float) -> None:
        self.found.setdefault(key, {}).setdefault(program.name, []).append(value)
        if program.name == OURS:
            self.ours[key] = program

    def take(self, task: Task, runs: int, before: Callable[[], object] = lambda: None) -> None:
        """All rounds of a task. before: called before each turn of ours that counts."""
        if task.batch > 1:
            for program in [p for p in self.workers if p in self.slow and p.name != OURS]:
                self.leave_out(program, f"no batches, for one text took {self.slow[program]:.0f} s")
        done: set[Program] = set()
        for number in range(runs * (1 + STEPS_ALONE) + 1):
            alone = number > runs
            skipped = {p for p in self.workers if alone and p.name == PLAIN}  # its steps take seconds
            able = [p for p in self.workers if p.bits in task.bits and p not in done | skipped]
            for program in able if number % 2 == 0 else reversed(able):
                with self.excused(program):
                    if number and program.name == OURS:
                        before()
                    time.sleep(PAUSE)
                    values, seconds = self.turn(program, task, number, alone=alone)
                    if number == 0 and seconds > SLOW:
                        values, seconds = self.turn(program, task, AGAIN)
                    slow = number == 0 and seconds > SLOW
                    if slow:
                        done.add(program)
                        self.slow[program] = seconds
                    shown = ", ".join(f"{key.what} {value:.1f}" for key, value in values.items())
                    say(f"{program}, batch {task.batch}: {shown}{' (slow: once)' if slow else ''}")
                    for key, value in values.items() if number or slow else ():
                        self.add(key, program, value)

    def turn(
        self, program: Program, task: Task, number: int, *, alone: bool = False
    ) -> tuple[dict[Key, float], float]:
        """One program's figures, in tokens a second, and how many seconds another turn would take.

        alone: without a prompt, behind the last one.
        """
        worker, figures, seconds = self.workers[program], {}, 0.0
        if task.cached:
            if number == 0:
                worker.ask("fill", tokens=task.prompt)
        elif (task.again and not alone) or number == 0:
            answer = worker.ask("prefill", prompt=task.prompt, batch=task.batch, seed=number)
            if task.again:
                seconds = answer["seconds"]
                figures[prefill_key(program, task)] = task.batch * task.prompt / seconds
        steps = worker.ask("decode", steps=task.steps)["seconds"]
        figures[decode_key(program, task)] = task.batch / statistics.median(steps)
        return figures, seconds + sum(steps)

    def begin_anew(self, programs: Sequence[Program], prompt: int, runs: int) -> None:
        """Seconds from the start of a process to its first token; the first round warms the disk."""
        for number in range(runs + 1):
            for program in programs if number % 2 == 0 else reversed(programs):
                if program in self.broken:
                    continue
                with self.excused(program), stopped(self.start(program)) as worker:
                    self.load(program, worker)
                    worker.ask("prefill", prompt=prompt, batch=1, seed=number)
                    seconds = time.perf_counter() - worker.started
                    say(f"{program}, start-up: {seconds:.2f} s")
                    if number:
                        self.add(Key("start-up", program.bits, 1, prompt), program, seconds)

    def weigh(self, programs: Sequence[Program], prompt: int, steps: int) -> None:
        """The most memory of each, in MB over what there was before the model, in a process of its own."""
        for program in programs:
            with self.excused(program), stopped(self.start(program)) as worker:
                self.load(program, worker)
                worker.ask("prefill", prompt=prompt, batch=1)
                worker.ask("decode", steps=steps)
                size = worker.ask("memory")["bytes"] / 1e6
                say(f"{program}, memory: {size:.0f} MB")
                self.add(Key("memory", program.bits, 1, prompt), program, size)

    def missing(self) -> dict[str, str]:
        """What was left out, where, and why."""
        found: dict[str, str] = {}
        for (program, why), names in self.failures.items():
            where = f"{', '.join(dict.fromkeys(names))}: {why}"
            found[program] = f"{found[program]}; {where}" if program in found else where
        return found

    def begin(self, group: str) -> None:
        """Failures of an earlier group are forgotten: its task may have been too much."""
        self.group = group
        self.broken.clear()
        self.slow.clear()

    def versions(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for facts in self.facts.values():
            found.update(facts.get("versions", {}))
        return found


def prefill_key(program: Program, task: Task) -> Key:
    return Key(task.what.replace("decode", "prefill"), program.bits, task.batch, task.prompt)


def decode_key(program: Program, task: Task) -> Key:
    return Key(task.what, program.bits, task.batch, task.prompt)


@contextmanager
def stopped(worker: Worker) -> Iterator[Worker]:
    try:
        yield worker
    finally:
        worker.stop()


def importing_torch() -> float:
    """Seconds that a process takes to import torch and end: what no start can do without."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, os; os._exit(0)"], check=True, env=os.environ)
    return time.perf_counter() - started


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
