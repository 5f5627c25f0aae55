"""Makes the pocket: tokenizer, data, training, export, evaluation, model card. `python -m recipes.pocket`.

It works in runs/pocket and can be stopped at any time: the same command goes on from the last checkpoint.
(After a change of the recipe remove that folder.) While it trains, a few held-out questions are asked now and
then (peek.py). The result is written to src/pureqwen/pocket when it is trained, its figures to
benchmarks/results/pocket.json.

A second, short stage follows the first, in runs/pocket/polish. With --moe its sibling is made in the same
way, in runs/pocket-moe: a mixture of experts, in which a token goes through as many parameters.
"""

import argparse
import dataclasses
import itertools
import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

import pureqwen
from pureqwen import ChatTemplate, ModelConfig, Qwen, Qwen3, Tokenizer, TrainConfig
from pureqwen.train.checkpoint import checkpoints
from pureqwen.train.progress import Log
from pureqwen.weights import load_model, save_model
from recipes.pocket.card import FOLDERS, RESULTS, model_card
from recipes.pocket.data import chats, said_by
from recipes.pocket.evaluate import evaluate, write
from recipes.pocket.peek import Peek
from recipes.pocket.problem import Chat
from recipes.pocket.shape import (
    EMPHASIS,
    NUM_CHATS,
    POLISH,
    POLISH_CHATS,
    SEED,
    TRAINING,
    generation_config,
    model_config,
)
from recipes.pocket.tokenizer import END_OF_TEXT, END_OF_TURN, train_tokenizer

ROOT = Path(__file__).parents[2]
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SHARD = 8_000_000  # bytes of a file of weights


@dataclass(frozen=True)
class Run:
    """What a run makes, where it works, where model (into) and figures (results) go, how long it is."""

    name: str = "pocket"
    work: Path = ROOT / "runs" / "pocket"
    into: Path = FOLDERS["pocket"]
    results: Path = RESULTS / "pocket.json"
    num_chats: int = NUM_CHATS
    polish_chats: int = POLISH_CHATS  # of the second stage
    steps: int | None = None
    count: int = 100

    @property
    def experts(self) -> bool:
        return self.name == MOE.name

    @property
    def polish(self) -> Path:
        """Where the second stage works, and the result is when all is done."""
        return self.work / "polish"


MOE = Run(
    name="pocket-moe",
    work=ROOT / "runs" / "pocket-moe",
    into=FOLDERS["pocket-moe"],
    results=RESULTS / "pocket-moe.json",
)


def prepare(run: Run) -> None:
    """Tokenizer, template and data in the run's folder: anew, unless a run is under way there."""
    if checkpoints(run.work):
        return
    train_tokenizer(run.work, count=min(12_000, run.num_chats))
    shutil.copyfile(TEMPLATE, run.work / "chat_template.jinja")
    write_chats(run, run.work, itertools.islice(chats(SEED), run.num_chats))


def write_chats(run: Run, folder: Path, drawn: Iterable[Chat]) -> None:
    """The data of a stage."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for chat in drawn:
            file.write(json.dumps(said_by(chat, experts=run.experts)) + "\n")


def control_ids(folder: Path) -> dict[str, int]:
    """The ids that configurations name."""
    ids = Tokenizer.from_pretrained(folder).special_ids
    return {"end_of_turn": ids[END_OF_TURN], "end_of_text": ids[END_OF_TEXT]}


def untrained(run: Run) -> Qwen:
    """A fresh model with the run's tokenizer and template."""
    torch.manual_seed(SEED)
    folder, ids = run.work, control_ids(run.work)
    return Qwen(
        Qwen3(model_config(**ids, experts=run.experts)),
        tokenizer=Tokenizer.from_pretrained(folder),
        template=ChatTemplate.from_pretrained(folder),
        generation_config=generation_config(**ids),
    )


def train(run: Run) -> None:
    """All steps of both stages, or those that are left."""
    qwen = untrained(run)
    learn(run, qwen, run.work, TRAINING)
    if not checkpoints(run.polish):
        drawn = chats(SEED + 1, emphasis=EMPHASIS[run.name])
        write_chats(run, run.polish, itertools.islice(drawn, run.polish_chats))
    learn(run, qwen, run.polish, POLISH)


def learn(run: Run, qwen: Qwen, folder: Path, config: TrainConfig) -> None:
    """One stage, on the data in its folder."""
    config = dataclasses.replace(config, steps=run.steps, balance=run.experts)
    found = checkpoints(folder)
    start = int(found[-1].name.removeprefix("step-")) if found else 0
    peek = Peek(qwen, folder / "peeks.jsonl")
    with Log(folder / "log.jsonl", every=config.log_every, start=start) as log:

        def watch(step: pureqwen.train.StepLog) -> None:
            log(step)
            peek(step)

        data = folder / "train.jsonl"
        trained = pureqwen.train(qwen.model, data, out=folder, config=config, tokenizer=run.work, watch=watch)
    if trained.num_skipped:
        print(f"{trained.num_skipped} chats were longer than a row and left out", file=sys.stderr)


def export(run: Run) -> None:
    """Brings the result to where it ships from."""
    config = ModelConfig.from_pretrained(run.polish)
    model = load_model(run.polish, config, dtype=torch.bfloat16)
    save_model(model, run.into, config=config, max_shard_bytes=SHARD)
    for name in FILES:
        shutil.copyfile(run.polish / name, run.into / name)
    # Stored in bfloat16, which keeps the wheel small; computed in float32, in which every processor is quick.
    shape = json.loads((run.into / "config.json").read_text(encoding="utf-8"))
    (run.into / "config.json").write_text(json.dumps({**shape, "torch_dtype": "float32"}, indent=2) + "\n")
    settings = generation_config(**control_ids(run.work))
    (run.into / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main(run: Run) -> None:
    prepare(run)
    train(run)
    export(run)
    result = evaluate(run.into, name=run.name, count=run.count)
    write(result, run.results)
    (run.into / "README.md").write_text(model_card(result, experts=run.experts), encoding="utf-8")
    print(f"the pocket is in {run.into}, its accuracy in {run.results}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=Run.count, help="held-out questions of each task")
    parser.add_argument("--moe", action="store_true", help="the mixture of experts")
    asked = parser.parse_args()
    main(dataclasses.replace(MOE if asked.moe else Run(), count=asked.count))
