"""Held-out accuracy of the pocket: `make pocket-eval`, or `python -m recipes.pocket.evaluate [FOLDER]`.

Every task is asked in the wordings of the training and in the held-out one, with thinking and without, on
problems that no training chat has; then again under thinking budgets, where a thought that is too long is
closed and the answer follows. Greedy, in batches, with a bound on the length (an untrained model writes to
its limit). An answer counts when it is exactly the expected one, or calls exactly the expected tools with the
expected arguments.
"""

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import pureqwen
from pureqwen import Result
from recipes.pocket.card import RESULTS
from recipes.pocket.data import said_by
from recipes.pocket.problem import Chat, Problem, Task
from recipes.pocket.tasks import TASKS

MAX_TOKENS = {True: 400, False: 120}  # with thinking, without
BUDGETS = (0, 8, 16, 32, 48, 64, 96, 128, 192)


def asked(task: Task, count: int, *, held_out_wording: bool = False) -> list[Chat]:
    """`count` chats, the same ones always; the last message is the expected one.

    Their problems are held out; those of a kind that holds none out are as frequent as they are in training.
    The wordings are those of the training, or the held-out one.
    """
    rng = random.Random(f"held out {task.name} {held_out_wording}")
    draw = task.unseen if held_out_wording and task.unseen else task.draw
    found: list[Chat] = []
    while len(found) < count:
        problem = draw(rng)
        if not _may_be_asked(problem, rng):
            continue
        question = problem.question(rng, held_out=held_out_wording and task.unseen is None)
        found.append(problem.chat(question, thoughts=problem.steps))
    return found


def _may_be_asked(problem: Problem, rng: random.Random) -> bool:
    return problem.held_out if problem.key else rng.random() * problem.rate < 1


def is_right(result: Result, expected: dict[str, Any]) -> bool:
    """Whether an answer is the expected message."""
    calls = [(call.name, call.arguments) for call in result.tool_calls]
    wanted = [
        (call["function"]["name"], call["function"]["arguments"]) for call in expected.get("tool_calls", ())
    ]
    return calls == wanted and (result.content or "").strip() == expected["content"]


def answers(
    qwen: pureqwen.Qwen, chats: Sequence[Chat], *, thinking: bool, batch: int = 50, **fields: Any
) -> list[tuple[Chat, Result]]:
    """Each chat, as this model has it, and the answer to its last message but one."""
    said = [said_by(chat, experts=bool(qwen.config.num_experts)) for chat in chats]
    order = sorted(range(len(said)), key=lambda place: len(str(said[place])))
    found: dict[int, Result] = {}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        results = qwen.chat(
            [said[place]["messages"][:-1] for place in part],
            tools=[said[place].get("tools") for place in part],
            thinking=thinking,
            **{"max_tokens": MAX_TOKENS[thinking], **fields},
        )
        found.update(zip(part, results, strict=True))
    return [(chat, found[place]) for place, chat in enumerate(said)]


def share(found: Sequence[tuple[Chat, Result]]) -> float:
    """Of right answers, in percent."""
    right = sum(is_right(result, chat["messages"][-1]) for chat, result in found)
    return round(100 * right / len(found), 1)


def mistakes(found: Sequence[tuple[Chat, Result]], count: int) -> list[str]:
    """The first wrong answers: the question, what was thought and said, what was expected."""
    lines = []
    for chat, result in found:
        *_, question, expected = chat["messages"]
        if not is_right(result, expected):
            wanted = {key: value for key, value in expected.items() if key != "role"}
            lines.append(f"  {question['content']!r}: {result.text!r}\n    expected {wanted}")
    return lines[:count]


def row(qwen: pureqwen.Qwen, task: Task, count: int, show: int) -> dict[str, Any]:
    """One task's figures: {"task", "questions", and the shares in percent}."""
    figures: dict[str, Any] = {"task": task.name, "questions": count}
    for wording in ("seen", "held out"):
        chats = asked(task, count, held_out_wording=wording == "held out")
        for mode in ("thinking", "direct"):
            found = answers(qwen, chats, thinking=mode == "thinking")
            figures[f"{mode}, {wording} wording"] = share(found)
            if show and mode == "thinking":
                print(*mistakes(found, show), sep="\n", file=sys.stderr)
    numbers = "  ".join(f"{value:5.1f}" for value in list(figures.values())[2:])
    print(f"{task.name:30} {numbers}", file=sys.stderr, flush=True)
    return figures


def under_budgets(qwen: pureqwen.Qwen, count: int) -> list[dict[str, Any]]:
    """[{"budget", "accuracy"}]: over all tasks, `count` questions of each; budget None is no limit."""
    chats = [chat for task in TASKS for chat in asked(task, count)]
    rows: list[dict[str, Any]] = []
    for budget in (*BUDGETS, None):
        found = answers(qwen, chats, thinking=True, thinking_budget=budget)
        rows.append({"budget": budget, "accuracy": share(found)})
    return rows


def evaluate(folder: str | Path, *, count: int, name: str | None = None, show: int = 0) -> dict[str, Any]:
    """All figures, with the command (which calls the folder `name`) and the versions that made them."""
    torch.set_num_threads(1)  # a model so small waits longer for a second thread than it gains
    qwen = pureqwen.load(folder, dtype="float32")
    started = time.perf_counter()
    rows = [row(qwen, task, count, show) for task in TASKS]
    return {
        "command": f"python -m recipes.pocket.evaluate {name or folder} --count {count}",
        "versions": {"pureqwen": pureqwen.__version__, "torch": torch.__version__},
        "device": f"{platform.machine()} cpu, {torch.get_num_threads()} threads",
        "parameters": qwen.config.num_parameters(),
        "rows": rows,
        "budgets": under_budgets(qwen, max(1, count // 5)),
        "seconds": round(time.perf_counter() - started, 1),
    }


def write(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="pocket", help="of a model, or pocket, or pocket-moe")
    parser.add_argument("--count", type=int, default=100, help="problems of each task and wording")
    parser.add_argument(
        "--out", type=Path, help="the JSON file to write [default: benchmarks/results/FOLDER.json]"
    )
    parser.add_argument("--show", type=int, default=0, help="print so many wrong answers of each task")
    arguments = parser.parse_args()
    result = evaluate(arguments.folder, count=arguments.count, show=arguments.show)
    write(result, arguments.out or RESULTS / f"{Path(arguments.folder).name}.json")


if __name__ == "__main__":
    main()
