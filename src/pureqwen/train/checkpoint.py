"""The state of a run on disk, as safetensors and JSON: enough to go on exactly as if it had not stopped.

    OUT/checkpoints/step-000500/model.safetensors, config.json     the weights, in float32
                                optimizer.safetensors              the optimizers' averages, by parameter name
                                training.json                      step, settings, and what the data was

A folder is written under another name and renamed when it is whole, so that an interrupted save is no
checkpoint.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pureqwen.config import TrainConfig
from pureqwen.model import Qwen3
from pureqwen.train.data import Document
from pureqwen.train.loop import Trainer
from pureqwen.weights import load_weights, save_model, write_json

FOLDER = re.compile(r"step-(\d{6,})")
RUN_ONLY = (
    "log_every",
    "save_every",
    "keep_checkpoints",
)  # may change when a run goes on: no step depends on them


def save_checkpoint(trainer: Trainer, out: Path, *, began_with: str | None = None) -> Path:
    """Writes the checkpoint of the step just taken, and removes the oldest beyond `keep_checkpoints`.

    began_with: what `identity` said of the weights that the run began with.
    """
    folder = out / "checkpoints" / f"step-{trainer.step:06}"
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    save_model(trainer.model, partial, config=trainer.model.config)
    save_file(_optimizer_tensors(trainer), partial / "optimizer.safetensors")
    state = {
        "step": trainer.step,
        "documents": fingerprint(trainer.documents),
        "began_with": began_with,
        "settings": trainer.config.to_dict(),
    }
    write_json(partial / "training.json", state)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    for old in checkpoints(out)[: -trainer.config.keep_checkpoints]:
        shutil.rmtree(old)
    return folder


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints of a run, the latest last."""
    found = [p for p in (out / "checkpoints").glob("step-*") if FOLDER.fullmatch(p.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def restore(trainer: Trainer, folder: Path, *, began_with: str | None = None) -> None:
    """Puts weights, optimizer and step of a checkpoint into the trainer.

    ValueError when the run was another: other data, settings that a step depends on, or first weights.
    """
    try:
        state = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        settings = TrainConfig.from_dict(state["settings"]).to_dict()
        step, documents = int(state["step"]), state["documents"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is no checkpoint of a training run: {error}") from error
    now = trainer.config.to_dict()
    changed = [k for k in now if now[k] != settings[k] and k not in RUN_ONLY]
    if changed:
        what = ", ".join(f"{k} was {settings[k]} and is {now[k]}" for k in changed)
        raise ValueError(
            f"{folder} is of a run with other settings ({what}): go on with the same, or train anew"
        )
    if documents != fingerprint(trainer.documents):
        raise ValueError(f"{folder} is of a run on other data: go on with the same, or train anew")
    first = state.get("began_with")
    if began_with and first and began_with != first:
        raise ValueError(
            f"{folder} is of a run that began with other weights: go on with the same model, or train anew"
        )
    load_weights(trainer.model, folder)
    tensors = load_file(folder / "optimizer.safetensors")
    for name, parameter in _trained(trainer):
        prefix = f"{name}."
        kinds = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if kinds:  # none where a parameter has had no gradient yet
            _optimizer_of(trainer, parameter).state[parameter] = {
                kind: value.to(parameter.device) for kind, value in kinds.items()
            }
    trainer.step = step


def fingerprint(documents: Sequence[Document]) -> str:
    """A hash of all ids and of what is learned of them."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(len(document).to_bytes(4, "little"))
        digest.update(document.ids.tobytes())
        digest.update(document.learned)
    return digest.hexdigest()


def identity(model: Qwen3) -> str:
    """A hash of some thousand numbers of each parameter: another checkpoint of this shape has another one."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        few = flat[:: max(1, len(flat) // 4096)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(few.numpy().tobytes())
    return digest.hexdigest()


def _trained(trainer: Trainer) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]


def _optimizer_of(trainer: Trainer, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    for optimizer in trainer.optimizers:
        if any(parameter is p for group in optimizer.param_groups for p in group["params"]):
            return optimizer
    raise AssertionError("every trained parameter has an optimizer")


def _optimizer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}": value.detach().cpu().contiguous()
        for name, parameter in _trained(trainer)
        for kind, value in _optimizer_of(trainer, parameter).state.get(parameter, {}).items()
    }
