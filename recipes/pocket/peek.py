"""A look at the model while it is trained: a few held-out questions of each task, answered with thinking.

It is bounded twice: an answer in its length (an untrained model writes to its limit), and all looks together
in their share of the run's time. What it sees decides nothing about the run, and is kept in a file.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

from pureqwen import Qwen
from pureqwen.train import StepLog
from recipes.pocket.evaluate import answers, asked, share
from recipes.pocket.tasks import TASKS

EVERY, COUNT, MAX_TOKENS, SHARE = 500, 3, 320, 0.03


class Peek:
    """Call it with each StepLog: now and then steps it asks `count` questions a task and adds a line to path.

    `qwen` must hold the model that is trained.
    """

    def __init__(self, qwen: Qwen, path: Path, *, every: int = EVERY, count: int = COUNT) -> None:
        self._qwen, self._path, self._every = qwen, path, every
        self._chats = {task.name: asked(task, count) for task in TASKS}
        self._began, self._spent, self._last = perf_counter(), 0.0, 0.0

    def __call__(self, log: StepLog) -> None:
        now = perf_counter()
        if log.step % self._every or self._spent + self._last > SHARE * (now - self._began):
            return
        self._qwen.model.eval()
        line = {"step": log.step, **self._shares()}
        self._qwen.model.train()
        self._last = perf_counter() - now
        self._spent += self._last
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        below = ", ".join(f"{name} {share}" for name, share in line.items() if name != "step" and share < 100)
        print(
            f"  at step {log.step}, percent right below 100: {below or 'none'}", file=sys.stderr, flush=True
        )

    def _shares(self) -> dict[str, int]:
        """Percent of right answers by task."""
        chats = [chat for few in self._chats.values() for chat in few]
        found = iter(answers(self._qwen, chats, thinking=True, batch=len(chats), max_tokens=MAX_TOKENS))
        return {name: round(share([next(found) for _ in few])) for name, few in self._chats.items()}
