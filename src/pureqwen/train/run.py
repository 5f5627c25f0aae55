"""`train`: a model or a shape, data, and a folder in; a checkpoint that every other tool reads out.

    OUT/model.safetensors, config.json, generation_config.json,       the result
        tokenizer files, chat_template.jinja
    OUT/log.jsonl                                                     the loss
    OUT/checkpoints/step-*                                            to go on from

Calling it again with the same arguments goes on from the last checkpoint; a finished run only writes its
result again. Weights are float32 while they are trained, and saved in the config's torch_dtype (bfloat16
where it names none).

What it does not do: several devices, adapters.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pureqwen.chat import ChatTemplate
from pureqwen.config import ModelConfig, TrainConfig, read_generation_config
from pureqwen.model import Qwen3
from pureqwen.tokenizer import Tokenizer
from pureqwen.train.checkpoint import checkpoints, identity, restore, save_checkpoint
from pureqwen.train.data import end_of_turn, read_corpus
from pureqwen.train.loop import StepLog, Trainer, Watch
from pureqwen.train.progress import Log
from pureqwen.train.records import Source
from pureqwen.weights import has_weights, load_model, resolve, save_model, write_json


@dataclass(frozen=True)
class Trained:
    """The folder of the result, the losses of the steps that this call took, and the chats left out."""

    folder: Path
    losses: tuple[float, ...]
    num_skipped: int


def train(
    model: str | Path | Qwen3 | ModelConfig,
    data: Source,
    *,
    out: str | Path,
    config: TrainConfig | None = None,
    tokenizer: str | Path | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Trains a model and writes it to `out`.

    model: a checkpoint's folder or name on the hub to go on from; a config.json, a folder with a config and
        no weights, or a ModelConfig to begin with fresh weights; or a Qwen3, whose weights are trained in
        place (in float32).
    data: a .jsonl, .json or .txt file, a folder of them, or an iterable of records (see train/records.py).
    tokenizer: a folder with tokenizer.json and the chat template; default: the model's.
    watch: called after each step instead of showing the progress on standard error.

    Raises ValueError: for data (naming file and line), for settings, for an `out` that holds another run,
    and Diverged when the loss is no number any more.
    """
    config, out = config or TrainConfig(), Path(out)
    source = _source(model)
    words = _words(tokenizer, source)
    network = _network(model, source, config.seed)
    began_with = None if isinstance(model, Qwen3) else identity(network)  # one in memory may be half trained
    generation = read_generation_config(source) if source is not None else None
    _check_vocabulary(words.tokenizer, network.config)
    corpus = read_corpus(
        data,
        words.tokenizer,
        words.template,
        length=config.sequence_length,
        skip_long_chats=config.skip_long_chats,
    )
    trainer = Trainer(network, corpus.documents, config)
    if found := checkpoints(out):
        restore(trainer, found[-1], began_with=began_with)
    log = Log(out / "log.jsonl", every=config.log_every, start=trainer.step) if watch is None else None
    with log or nullcontext():
        losses = trainer.run(_saving(trainer, out, watch or log, began_with))
    _write_result(network, words, generation or {}, out)
    return Trained(out, tuple(losses), corpus.num_skipped)


@dataclass(frozen=True)
class _Words:
    """What turns text into ids."""

    tokenizer: Tokenizer
    template: ChatTemplate | None


def _source(model: str | Path | Qwen3 | ModelConfig) -> Path | None:
    """The folder that a model given by name comes from."""
    if isinstance(model, Qwen3 | ModelConfig):
        return None
    path = Path(model)
    return path.parent if path.suffix == ".json" and path.is_file() else resolve(model)


def _words(folder: str | Path | None, source: Path | None) -> _Words:
    found = Path(folder) if folder is not None else source
    if found is None:
        raise ValueError(
            "a ModelConfig or a Qwen3 has no tokenizer: pass tokenizer=, a folder with tokenizer.json"
        )
    try:
        return _Words(Tokenizer.from_pretrained(found), ChatTemplate.from_pretrained(found))
    except FileNotFoundError as error:
        raise ValueError(f"{error}; pass tokenizer=, a folder that holds one") from None


def _network(model: str | Path | Qwen3 | ModelConfig, source: Path | None, seed: int) -> Qwen3:
    """The model in float32. Loaded weights are views of a private map: written to, the file stays."""
    if isinstance(model, Qwen3):
        return model.float()
    if isinstance(model, ModelConfig):
        return _fresh(model, seed)
    assert source is not None
    config = ModelConfig.from_pretrained(source)
    if Path(model).suffix == ".json" or not has_weights(source):
        return _fresh(config, seed)
    return load_model(source, config, dtype=torch.float32)


def _fresh(config: ModelConfig, seed: int) -> Qwen3:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3(config)


def _check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model {config.vocab_size} rows: "
            "raise the config's vocab_size, or take the model's own tokenizer"
        )


def _saving(
    trainer: Trainer, out: Path, watch: Watch | None, began_with: str | None
) -> Callable[[StepLog], None]:
    every = trainer.config.save_every

    def after(log: StepLog) -> None:
        if watch is not None:
            watch(log)
        if every and (log.step % every == 0 or log.step == log.steps):
            save_checkpoint(trainer, out, began_with=began_with)

    return after


def _write_result(network: Qwen3, words: _Words, generation: dict[str, Any], out: Path) -> None:
    dtype = getattr(torch, network.config.torch_dtype or "bfloat16")
    save_model(copy.deepcopy(network).to(dtype), out, config=network.config)
    words.tokenizer.save(out)
    if words.template is not None:
        words.template.save(out)
    write_json(out / "generation_config.json", _generation_config(network.config, words, generation))


def _generation_config(config: ModelConfig, words: _Words, own: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's own, that stops at the template's end of turn too."""
    values = dict(own)
    end = end_of_turn(words.tokenizer, words.template) if words.template is not None else None
    known = values.get("eos_token_id", config.eos_token_id)
    ids = [end, *(known if isinstance(known, list | tuple) else [known])]
    if stops := list(dict.fromkeys(id for id in ids if id is not None)):
        values["eos_token_id"] = stops
    return values
