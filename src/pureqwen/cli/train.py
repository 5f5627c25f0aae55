"""`pureqwen train`: learn from chats or texts; the result is a folder that every other verb reads."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from pureqwen.cli.errors import notice
from pureqwen.cli.options import flag
from pureqwen.config import TrainConfig

TRAINING = Group("Training", sort_key=1)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The fields of TrainConfig as flags, one for one (a test holds them together)."""

    steps: Annotated[int | None, flag("Optimizer steps. [default: as many as --epochs takes]", TRAINING)] = (
        TrainConfig.steps
    )
    epochs: Annotated[int, flag("Passes over the data, where --steps is not given.", TRAINING)] = (
        TrainConfig.epochs
    )
    batch_size: Annotated[int, flag("Rows in one forward pass.", TRAINING)] = TrainConfig.batch_size
    sequence_length: Annotated[int, flag("Tokens of a row; documents are packed into rows.", TRAINING)] = (
        TrainConfig.sequence_length
    )
    accumulation: Annotated[int, flag("Forward passes per optimizer step.", TRAINING)] = (
        TrainConfig.accumulation
    )
    optimizer: Annotated[str, flag("adamw, or muon for the matrices of the blocks.", TRAINING)] = (
        TrainConfig.optimizer
    )
    learning_rate: Annotated[float, flag("At its highest.", TRAINING)] = TrainConfig.learning_rate
    warmup_steps: Annotated[int, flag("Steps in which it rises from 0.", TRAINING)] = TrainConfig.warmup_steps
    decay_from: Annotated[
        float, flag("Share of all steps after which it falls along a cosine.", TRAINING)
    ] = TrainConfig.decay_from
    final_rate: Annotated[float, flag("What it falls to, as a share of --learning-rate.", TRAINING)] = (
        TrainConfig.final_rate
    )
    weight_decay: Annotated[float, flag("On matrices; never on norms and biases.", TRAINING)] = (
        TrainConfig.weight_decay
    )
    beta1: Annotated[float, flag("AdamW's average of the gradient.", TRAINING)] = TrainConfig.beta1
    beta2: Annotated[float, flag("AdamW's average of its square.", TRAINING)] = TrainConfig.beta2
    clip: Annotated[float, flag("Largest norm of the gradient; 0 is off.", TRAINING)] = TrainConfig.clip
    balance: Annotated[
        bool, flag("Add the load-balancing loss of a mixture of experts.", TRAINING, negative="")
    ] = TrainConfig.balance
    precision: Annotated[str, flag("Of the matrix products: auto, bfloat16 or float32.", TRAINING)] = (
        TrainConfig.precision
    )
    compile: Annotated[
        bool, flag("Compile the blocks: a start of some seconds, then quicker steps.", TRAINING, negative="")
    ] = TrainConfig.compile
    seed: Annotated[int, flag("Of fresh weights and of the order of the data.", TRAINING)] = TrainConfig.seed
    log_every: Annotated[int, flag("Steps between two lines of the log.", TRAINING)] = TrainConfig.log_every
    save_every: Annotated[
        int, flag("Steps between two checkpoints; 0 keeps none but the result.", TRAINING)
    ] = TrainConfig.save_every
    keep_checkpoints: Annotated[int, flag("How many of them stay on the disk.", TRAINING)] = (
        TrainConfig.keep_checkpoints
    )
    skip_long_chats: Annotated[
        bool,
        flag("Leave out chats that are longer than a row; else they are an error.", TRAINING, negative=""),
    ] = TrainConfig.skip_long_chats


def train(
    model: Annotated[str, flag("A folder or hub name to go on from, or a config.json to begin with.")],
    data: Annotated[Path, flag("A .jsonl, .json or .txt file, or a folder of them.")],
    /,
    *,
    out: Annotated[Path, flag("The folder for the result and its checkpoints.")],
    tokenizer: Annotated[
        Path | None, flag("A folder with tokenizer and chat template. [default: the model's]")
    ] = None,
    options: Annotated[TrainOptions, Parameter(name="*")] = TrainOptions(),
) -> None:
    """Train a model on chats (the assistant's tokens are learned) or plain texts (all are).

    The same command goes on from the last checkpoint after an interruption. Prints the folder of the result.
    """
    config = TrainConfig(**asdict(options))
    from pureqwen.train.run import train as run  # brings torch

    trained = run(model, data, out=out, config=config, tokenizer=tokenizer)
    if trained.num_skipped:
        notice(
            f"{trained.num_skipped} chats were left out: they are longer than {config.sequence_length} tokens"
        )
    print(trained.folder)
