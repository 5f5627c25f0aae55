"""Makes the pocket: data, tokenizer, training, evaluation, export. `python -m recipes.pocket` does all of it.

It works in runs/pocket and can be stopped at any time: the same command goes on from the last checkpoint.
The result is written to src/pureqwen/pocket only when it is trained (and with --export alone, from the last
checkpoint).
"""

import argparse
import itertools
import json
import shutil
import sys
from pathlib import Path

import pureqwen
from pureqwen.train.checkpoint import checkpoints
from recipes.pocket.card import model_card
from recipes.pocket.data import chats
from recipes.pocket.evaluate import RESULTS, evaluate, write
from recipes.pocket.shape import NUM_CHATS, SEED, TRAINING, generation_config, model_config
from recipes.pocket.tokenizer import END_OF_TEXT, END_OF_TURN, train_tokenizer

ROOT = Path(__file__).parents[2]
WORK, POCKET = ROOT / "runs" / "pocket", ROOT / "src" / "pureqwen" / "pocket"
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def prepare() -> Path:
    """The tokenizer and the template in WORK, and the data, which is written once."""
    if not (WORK / "tokenizer.json").exists():
        train_tokenizer(WORK)
    shutil.copyfile(TEMPLATE, WORK / "chat_template.jinja")
    data = WORK / "train.jsonl"
    if not data.exists():
        partial = data.with_suffix(".part")
        with partial.open("w", encoding="utf-8") as file:
            for chat in itertools.islice(chats(SEED), NUM_CHATS):
                file.write(json.dumps(chat) + "\n")
        partial.rename(data)
    return data


def control_ids(folder: Path) -> dict[str, int]:
    """The ids that configurations name."""
    ids = pureqwen.Tokenizer.from_pretrained(folder).special_ids
    return {"end_of_turn": ids[END_OF_TURN], "end_of_text": ids[END_OF_TEXT]}


def train(data: Path) -> None:
    """One pass over the data; goes on from the last checkpoint where there is one."""
    config = model_config(**control_ids(WORK))
    pureqwen.train(config, data, out=WORK, config=TRAINING, tokenizer=WORK)


def export_checkpoint() -> None:
    """The last checkpoint as if it were the result: to try a model that is still being trained."""
    model = pureqwen.load(checkpoints(WORK)[-1], dtype="bfloat16")
    model.save(WORK)


def export() -> None:
    """Copies the result into the package."""
    POCKET.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(WORK / name, POCKET / name)
    config = generation_config(**control_ids(WORK))
    (POCKET / "generation_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", action="store_true", help="no training: export the last checkpoint")
    parser.add_argument("--count", type=int, default=100, help="held-out problems of each arithmetic kind")
    arguments = parser.parse_args()
    data = prepare()
    if arguments.export:
        export_checkpoint()
    else:
        train(data)
    export()
    result = evaluate(POCKET, count=arguments.count)
    write(result, RESULTS)
    (POCKET / "README.md").write_text(model_card(result), encoding="utf-8")
    print(f"the pocket is in {POCKET}, its accuracy in {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
