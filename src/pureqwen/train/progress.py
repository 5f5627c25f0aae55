"""What a run shows while it goes on, and the log that stays, OUT/log.jsonl.

The log has one JSON object every `log_every` steps.
In a terminal a bar with loss, tokens per second and time left; in a pipe a plain line every `log_every`
steps, and both on standard error. It decides nothing about the run.
"""

import json
import math
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pureqwen.train.loop import StepLog


class Log:
    """Collects steps and writes their mean every `every` steps. Call it with each StepLog; use it in a
    `with`.
    """

    def __init__(self, path: Path, *, every: int, start: int, console: Console | None = None) -> None:
        """Lines of `path` beyond step `start` (written after the checkpoint that a run goes on from) are
        dropped, and torn ones.
        """
        self._path, self._every = path, every
        self._steps: list[StepLog] = []
        self._console = console or Console(stderr=True)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:,.0f} tokens/s"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=None, completed=start, loss=float("nan"), rate=0.0)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        path.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= start), encoding="utf-8")

    def __enter__(self) -> "Log":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, log: StepLog) -> None:
        self._steps.append(log)
        rate = sum(s.num_tokens for s in self._steps) / max(1e-9, sum(s.seconds for s in self._steps))
        self._bar.update(self._task, completed=log.step, total=log.steps, loss=log.loss, rate=rate)
        if log.step % self._every and log.step != log.steps:
            return
        loss = sum(s.loss for s in self._steps) / len(self._steps)
        line = {
            "step": log.step,
            "loss": round(loss, 6),
            "learning_rate": log.learning_rate,
            "gradient_norm": round(log.gradient_norm, 4),
            "tokens_per_second": round(rate, 1),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if not self._console.is_terminal:
            minutes = (log.steps - log.step) * sum(s.seconds for s in self._steps) / len(self._steps) / 60
            text = (
                f"step {log.step}/{log.steps}  loss {loss:.4f}  {rate:,.0f} tokens/s  {minutes:.1f} min left"
            )
            self._console.out(text, highlight=False)
        self._steps.clear()


def _step_of(line: str) -> float:
    """Of a line of the log; infinity where a full disk or a power cut left only a part of it."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
