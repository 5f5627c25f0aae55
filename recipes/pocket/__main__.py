"""Makes the pocket: data, tokenizer, training, evaluation, export. `python -m recipes.pocket` does all of it.

It works in runs/pocket and can be stopped at any time: the same command goes on from the last checkpoint.
The result is written to src/pureqwen/pocket when it is trained.
"""

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pureqwen
from recipes.pocket.card import model_card
from recipes.pocket.data import Chat, chats
from recipes.pocket.evaluate import RESULTS, evaluate, write
from recipes.pocket.finish import finishing_chats
from recipes.pocket.shape import (
    FINISHING,
    NUM_CHATS,
    NUM_FINISHING,
    SEED,
    TRAINING,
    generation_config,
    model_config,
)
from recipes.pocket.tokenizer import END_OF_TEXT, END_OF_TURN, train_tokenizer

ROOT = Path(__file__).parents[2]
WORK, FINISHED = ROOT / "runs" / "pocket", ROOT / "runs" / "pocket" / "finished"
POCKET = ROOT / "src" / "pureqwen" / "pocket"
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def prepare() -> None:
    """The tokenizer and the template in WORK."""
    if not (WORK / "tokenizer.json").exists():
        train_tokenizer(WORK)
    shutil.copyfile(TEMPLATE, WORK / "chat_template.jinja")


def write_data(name: str, stream: Iterator[Chat], count: int) -> Path:
    """The first `count` chats as a file in WORK; written once."""
    data = WORK / name
    if not data.exists():
        partial = data.with_suffix(".part")
        with partial.open("w", encoding="utf-8") as file:
            for chat in itertools.islice(stream, count):
                file.write(json.dumps(chat) + "\n")
        partial.rename(data)
    return data


def control_ids(folder: Path) -> dict[str, int]:
    """The ids that configurations name."""
    ids = pureqwen.Tokenizer.from_pretrained(folder).special_ids
    return {"end_of_turn": ids[END_OF_TURN], "end_of_text": ids[END_OF_TEXT]}


def train() -> None:
    """Both stages; each goes on from its last checkpoint, where there is one."""
    data = write_data("train.jsonl", chats(SEED), NUM_CHATS)
    if not (WORK / "model.safetensors").exists():
        shape = model_config(**control_ids(WORK))
        pureqwen.train(shape, data, out=WORK, config=TRAINING, tokenizer=WORK)
    data = write_data("finish.jsonl", finishing_chats(SEED), NUM_FINISHING)
    pureqwen.train(WORK, data, out=FINISHED, config=FINISHING)


def export() -> None:
    """Copies the result into the package."""
    POCKET.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(FINISHED / name, POCKET / name)
    # Stored in bfloat16, which keeps the wheel small; computed in float32, in which every processor is quick.
    shape = json.loads((POCKET / "config.json").read_text(encoding="utf-8"))
    (POCKET / "config.json").write_text(json.dumps({**shape, "torch_dtype": "float32"}, indent=2) + "\n")
    config = generation_config(**control_ids(FINISHED))
    (POCKET / "generation_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="held-out problems of each arithmetic kind")
    arguments = parser.parse_args()
    prepare()
    train()
    export()
    result = evaluate(POCKET, count=arguments.count)
    write(result, RESULTS)
    (POCKET / "README.md").write_text(model_card(result), encoding="utf-8")
    print(f"the pocket is in {POCKET}, its accuracy in {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
