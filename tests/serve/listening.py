"""Who listens to an engine in the tests, and how one is held up."""

import threading
from typing import Any

from pureqwen import Engine, Qwen, Result, SamplingParams
from pureqwen.generate import Row
from pureqwen.serve.engine import Update

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def nothing_left(engine: Engine) -> None:
    engine._scheduler.pool.check()
    now = engine.statistics()
    assert now.waiting == now.running == now.pages_used == 0 and not engine._live


def row(qwen: Qwen, prompt: list[int], **fields: Any) -> Row:
    return qwen.intake.text(prompt, SamplingParams(**fields).over(GREEDY))


class Listener:
    """Keeps its updates, and knows when the last one has come."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.ended = threading.Event()

    def __call__(self, update: Update) -> None:
        assert not self.ended.is_set(), "an update behind the last one"
        self.updates.append(update)
        if update.error is not None or update.row.finished:
            self.ended.set()

    def wait(self) -> Update:
        assert self.ended.wait(20), "it never ended"
        return self.updates[-1]


class Slow:
    """Steps of an engine that stop until they are let go; `failing`: and then raise."""

    def __init__(self, engine: Engine) -> None:
        self.run, self.failing = engine._runner, False
        self.entered, self.let = threading.Semaphore(0), threading.Semaphore(0)
        engine._runner = self  # type: ignore[assignment]

    def __call__(self, plan: Any) -> Any:
        self.entered.release()
        assert self.let.acquire(timeout=20)
        if self.failing:
            raise RuntimeError("out of memory")
        return self.run(plan)


def same(results: list[Result], rows: list[Any]) -> None:
    assert [r.token_ids for r in results] == [r.token_ids for r in rows]
