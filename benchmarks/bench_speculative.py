"""What guessing ahead gains: answers that repeat their prompt, with and without it, on Qwen3-0.6B's shape.

    editing       a page of notes is given back with a few words changed
    code          a function is given back with a name changed
    summarising   the page's main sentences, shortened, with words between that are new
    new text      nothing of it stood before: what guessing costs where it does not pay

The weights are random and would write nothing sensible, so the answers are told: each token is computed as it
always is, and then the text's own is taken. So as much is guessed, kept and voided as by a model that writes
them; a word or a mark is a token. The two ways take turns. Writes results/speculative.json.

    python benchmarks/bench_speculative.py [--runs 3] [--quick]
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from bench_loading import device  # noqa: E402

import pureqwen  # noqa: E402
from benchmarks.peers import models  # noqa: E402
from pureqwen import Qwen, Result, SamplingParams  # noqa: E402
from pureqwen.cache import StaticCache  # noqa: E402
from pureqwen.generate import Cached, Row, Sampler, decode  # noqa: E402
from pureqwen.weights.convert import quantize_folder  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "speculative.json"
LIMIT = 8  # tokens guessed at a time, at most

PAGE = """The harbour office keeps a list of every ship that comes in. Each line has the name of the ship,
the hour, and what it carries. The list is read twice: once by the pilot, who must know how deep
the ship lies, and once by the customs officer, who must know what is in it. On Monday the list
was lost. The pilot asked the crew of each ship for the depth and wrote it on the quay with
chalk. The customs officer asked for the cargo and wrote it in a notebook. By noon there were
two lists, and they did not agree. A ship that lay deep in the chalk was empty in the notebook.
The harbour office compared the two and found that the pilot had read the marks at the bow, and
the crew had trimmed the ship by the stern. Since then each line has two depths, one for the bow
and one for the stern, and the customs officer gets a copy of the list before the ship is made
fast.""".replace("\n", " ")

EDITED = (
    PAGE.replace("Monday", "Tuesday")
    .replace("with chalk", "with white chalk")
    .replace("compared the two", "laid the two side by side")
    .replace("customs officer asked", "customs officer then asked")
    .replace("before the ship is made fast", "an hour before the ship is made fast")
)
SUMMARY = """The harbour office keeps a list of every ship, with the hour and what it carries. The pilot
reads it to know how deep the ship lies, the customs officer to know what is in it. When the
list was lost, the pilot asked the crew of each ship for the depth, and the customs officer
asked for the cargo. There were two lists, and they did not agree: the pilot had read the marks
at the bow, and the crew had trimmed the ship by the stern. Since then each line has two depths,
one for the bow and one for the stern.""".replace("\n", " ")
CODE = '''def widen(old, slots, kept):
    """`slots` slots, the first `kept` of them the old ones."""
    new = old.new_zeros(old.shape[0], slots, *old.shape[2:])
    new[:, :kept] = old[:, :kept]
    return new


def grow(cache, capacity):
    for attend in cache.attends:
        attend.k = widen(attend.k, capacity + 1, kept=cache.capacity)
        attend.v = widen(attend.v, capacity + 1, kept=cache.capacity)
    cache.capacity = capacity
'''
NEW = """Far out on the moor stands a mill whose wings nobody has seen turn. Children say that it grinds
fog; old people remember flour, a miller with one eye, his daughter's yellow bicycle. Last
spring an engineer from town climbed inside with lamps, measured beams, tapped gears. Nothing
was broken. She oiled one bearing, went home, slept badly. At dawn her telephone rang: somebody
had heard stones."""


@dataclass(frozen=True)
class Task:
    """A prompt and the answer that is told."""

    name: str
    prompt: str
    answer: str


TASKS = (
    Task("editing", f"{PAGE} Correct the day and make it clearer.", EDITED),
    Task("code", f"{CODE} Call it `room`, not `capacity`.", CODE.replace("capacity", "room")),
    Task("summarising", f"{PAGE} Say it in five sentences.", SUMMARY),
    Task("new text", f"{PAGE} Write something else.", NEW),
)


class Told(Sampler):
    """Chooses by the logits, which costs what it costs, and then takes the text's own token."""

    text: Sequence[int]

    def choose(self, logits: Tensor, *, position: int, count: int, allowed: Tensor | None = None) -> int:
        super().choose(logits, position=position, count=count, allowed=allowed)
        return self.text[count]


def tokens(text: str, known: dict[str, int]) -> list[int]:
    """A word with the blank before it, or a mark, is a token."""
    pieces = re.findall(r" ?\w+|[^\w\s]|\s", text)
    return [known.setdefault(piece, len(known)) for piece in pieces]


def row_of(qwen: Qwen, task: Task, words: dict[str, int]) -> Row:
    prompt, answer = tokens(task.prompt, words), tokens(task.answer, words)
    params = SamplingParams(temperature=0, max_tokens=len(answer), ignore_eos=True)
    row = qwen.intake.text(prompt, params)
    row.sampler = Told(row.params, prompt=prompt, seed=0, num_tokens=None, end_ids=())
    row.sampler.text = answer
    return row


def write(qwen: Qwen, task: Task, *, speculative: int) -> tuple[Result, int]:
    """The answer, and how many forwards it took after the prompt's."""
    words: dict[str, int] = {}
    row = row_of(qwen, task, words)
    assert len(words) <= qwen.config.vocab_size
    assert row.params.max_tokens is not None
    cache = StaticCache(qwen.config, limit=row.num_prompt + row.params.max_tokens, dtype=qwen.dtype)
    compute = Cached(qwen.model, cache, [row], speculative=speculative)
    forwards, forward = 0, compute.forward

    def counted(*given: Any) -> Tensor:
        nonlocal forwards
        forwards += 1
        return forward(*given)

    compute.forward = counted  # type: ignore[method-assign]
    for _ in decode([row], compute):
        pass
    return row.result(), forwards - 1


def measured(qwen: Qwen, task: Task, runs: int) -> dict[str, Any]:
    """Both ways, turn and turn about; the first round warms up."""
    speeds: dict[int, list[float]] = {0: [], LIMIT: []}
    steps: dict[int, int] = {}
    for number in range(runs + 1):
        for limit in [*speeds] if number % 2 else reversed([*speeds]):
            result, steps[limit] = write(qwen, task, speculative=limit)
            if number:
                speeds[limit].append(result.timings.tokens_per_second)
    plain, guessing = (statistics.median(speeds[limit]) for limit in (0, LIMIT))
    return {
        "steps": {"plain": steps[0], "guessing": steps[LIMIT]},
        "speeds": {"plain": speeds[0], "guessing": speeds[LIMIT]},
        "row": {
            "plain, tokens/s": spread(speeds[0]),
            "guessing, tokens/s": spread(speeds[LIMIT]),
            "times as fast": f"{guessing / plain:.2f}",
            "tokens a step": f"{(steps[0] / steps[LIMIT]):.2f}",
        },
    }


def spread(speeds: list[float]) -> str:
    return f"{statistics.median(speeds):.1f} ({min(speeds):.1f} to {max(speeds):.1f})"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3, help="turns that count")
    parser.add_argument("--quick", action="store_true", help="a tiny model: to see that everything works")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    shape = models.shape("tiny" if options.quick else "dense")
    rows, runs = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        plain, small = Path(temporary) / "bf16", Path(temporary) / "int8"
        models.write_random(plain, shape)
        quantize_folder(plain, small, scheme="int8")
        for weights, folder in (("bfloat16", plain), ("int8", small)):
            qwen = pureqwen.load(folder, device="cpu")
            for task in TASKS:
                found = measured(qwen, task, options.runs)
                rows.append({"answer": task.name, "weights": weights, **found.pop("row")})
                runs[f"{task.name}, {weights}"] = found
                print(json.dumps(rows[-1]), flush=True)
    quick = ["--quick"] if options.quick else []
    result = {
        "command": " ".join(["python benchmarks/bench_speculative.py --runs", str(options.runs), *quick]),
        "device": device(),
        "versions": {"torch": torch.__version__},
        "rows": rows,
        "runs": runs,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
