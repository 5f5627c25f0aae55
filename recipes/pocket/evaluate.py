"""Held-out accuracy of the pocket, with thinking and without: `python -m recipes.pocket.evaluate [FOLDER]`.

Greedy, in batches, with a bound on the length (an untrained model writes to its limit). An answer counts when
it is exactly the expected one. The numbers of the arithmetic problems are in no training chat.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

import pureqwen
from recipes.pocket.data import facts_questions, held_out_arithmetic, talk_questions, unknown_questions

Pairs = list[tuple[str, str]]
MAX_TOKENS = 420
OPERATIONS = {"addition": "+", "subtraction": "-", "multiplication": "*"}
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "pocket.json"


def accuracy(
    qwen: pureqwen.Qwen, pairs: Pairs, *, thinking: bool, batch: int = 32
) -> tuple[float, list[str]]:
    """Share of exact answers, and the questions that were answered otherwise, with what was said."""
    wrong: list[str] = []
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        chats = [[{"role": "user", "content": question}] for question, _ in part]
        results = qwen.chat(chats, thinking=thinking, max_tokens=MAX_TOKENS if thinking else 100)
        for (question, expected), result in zip(part, results, strict=True):
            if (result.content or "").strip() != expected:
                wrong.append(f"{question} -> {result.content!r}, expected {expected!r}")
    return 1 - len(wrong) / len(pairs), wrong


def tasks(count: int) -> dict[str, Pairs]:
    """Every task's questions and answers; count of each arithmetic kind."""
    found: dict[str, Pairs] = {}
    for name, op in OPERATIONS.items():
        found[name] = held_out_arithmetic(0, count, op)
        found[f"{name}, held-out phrasing"] = held_out_arithmetic(0, count, op, phrasing="held out")
    found["facts"] = facts_questions(phrasing="seen")
    found["facts, held-out phrasing"] = facts_questions(phrasing="held out")
    found["small talk"] = talk_questions()
    found["says that it does not know, unseen wording"] = unknown_questions()
    return found


def evaluate(folder: str | Path, *, count: int, show: bool = False) -> dict[str, Any]:
    """{"rows": [{"task", "questions", "thinking", "direct"}], ...}: shares of exact answers in percent."""
    qwen = pureqwen.load(folder, dtype="float32")
    started, table = time.perf_counter(), []
    for name, pairs in tasks(count).items():
        row: dict[str, Any] = {"task": name, "questions": len(pairs)}
        for mode in ("thinking", "direct"):
            share, wrong = accuracy(qwen, pairs, thinking=mode == "thinking")
            row[mode] = f"{share:.1%}"
            if show and (mode == "thinking" or "tion" not in name):
                print(*wrong[:5], sep="\n", file=sys.stderr)
        print(f"{name:44} thinking {row['thinking']:>6}  direct {row['direct']:>6}", file=sys.stderr)
        table.append(row)
    return {
        "command": f"python -m recipes.pocket.evaluate --count {count}",
        "versions": {"pureqwen": pureqwen.__version__, "torch": torch.__version__},
        "device": f"{platform.machine()} cpu, {torch.get_num_threads()} threads",
        "parameters": qwen.config.num_parameters(),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": table,
    }


def write(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="pocket")
    parser.add_argument("--count", type=int, default=100, help="problems of each arithmetic kind")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--show", action="store_true", help="print some wrong answers")
    arguments = parser.parse_args()
    result = evaluate(arguments.folder, count=arguments.count, show=arguments.show)
    if arguments.out:
        write(result, arguments.out)


if __name__ == "__main__":
    main()
