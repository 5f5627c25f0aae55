"""Weight files -> a model. The model is built without memory (meta device), then each leaf pulls its tensors.

    file and parameter agree in dtype, on a CPU     the parameter is a view of the map: no copy, no time
    anything else                                   copied in blocks of rows, whose pages go back at once

So the peak of memory is the weights and one block. Before the first number is read, names and shapes are
compared: every tensor of the file belongs to the model and every parameter has its tensor, or loading fails
and names them. Only two are left out of that account: the head of a tied model (it must equal the
embedding; one matrix is kept) and the rotary frequencies of old files, which follow from the config.

Files that `pureqwen quantize` or llm-compressor made (compressed-tensors) are read as they lie; other
quantised formats are refused by name. It knows no tokenizer.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pureqwen import kernels
from pureqwen.config import ModelConfig
from pureqwen.config.quantization import METHOD, schemes_in
from pureqwen.model import Pulled, Qwen3
from pureqwen.rewrite import Rewrite
from pureqwen.rewrite.quantize import quantize
from pureqwen.weights.ahead import read_ahead
from pureqwen.weights.files import Checkpoint, Entry, WeightError, open_folder, shown
from pureqwen.weights.names import EMBEDDING, HEAD, canonical, is_bare, leaves, refuse_buffers, stored_tensors

BLOCK = 4 << 20  # bytes of file that are converted at a time
ABSURD = 1000  # a config with so many times what is stored is refused unbuilt
LARGE = 100 << 20  # bytes of weights above which a slow dtype is worth a notice
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
DRAWS = {Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
QUANTISED_NAME = re.compile(r"\.(qweight|qzeros|scales|g_idx|weight_scale|weight_scale_inv|absmax)$")
QUANTISED_SUFFIX = re.compile(r"-(FP8|AWQ|GPTQ-Int[48]|bnb-4bit)$", re.IGNORECASE)

_log = logging.getLogger(__name__)


class NoHead(nn.Module):
    """Stands for the head that an embedding checkpoint with untied weights does not have."""

    def forward(self, hidden: Tensor) -> Tensor:
        raise ValueError(
            "this checkpoint has no lm_head (an embedding model): it gives hidden states, no logits"
        )


def load_model(
    folder: str | Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "cpu",
    rewrite: Rewrite | None = None,
) -> Qwen3:
    """The model of `config` with the weights of `folder`, in eval mode.

    dtype: "auto" (config.json's, else the file's; float16 becomes bfloat16 on a CPU), "bfloat16", "float32",
    or a torch dtype.
    rewrite: called on the model before it has numbers; the file must fit what it returns.
    On a CPU what stays in the files is then read in the background, where it fits into the free memory.
    Raises WeightError (a ValueError) when the files are broken, incomplete, quantised, or of another model,
    and ValueError for a dtype that this device should not compute in.
    """
    folder, device = Path(folder), torch.device(device)
    quantised_structure(config, folder)  # a format that is not read is refused before its files are judged
    files = open_folder(folder)
    headless = is_bare(files.entries) and HEAD not in files and not config.tie_word_embeddings
    checkpoint = Checkpoint(folder, canonical(files.entries))
    refuse_unfit(checkpoint, config)
    with torch.device("meta"), NoDraws():
        model = Qwen3(dataclasses.replace(config, quantization_config=None))
    if headless:
        model.add_module("lm_head", NoHead())
    if (quantised := quantised_structure(config, folder, headless=headless)) is not None:
        with torch.device("meta"):
            quantised(model)
        model.config = config
    if rewrite is not None:
        with torch.device("meta"), NoDraws():
            model = _rewritten(model, rewrite)
    wanted = stored_tensors(model)
    refuse_mismatch(checkpoint, wanted, tied=config.tie_word_embeddings)
    floats = {name: entry for name, entry in checkpoint.entries.items() if entry.dtype.is_floating_point}
    chosen = choose_dtype(dtype, floats, declared=config.torch_dtype, device=device)
    if config.tie_word_embeddings and HEAD in checkpoint and HEAD not in wanted:
        refuse_other_head(checkpoint)
    _pull(model, Reader(checkpoint, dtype=chosen, device=device))
    assert not any(parameter.is_meta for parameter in model.parameters())
    read_ahead(model.parameters())
    return model.eval()


@torch.no_grad()
def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Copies the weights of `folder` into the parameters of `model`, which keep place, dtype and device.

    For a model that is there already, whatever was rewritten in it. WeightError when the files do not fit.
    """
    folder = Path(folder)
    checkpoint = Checkpoint(folder, canonical(open_folder(folder).entries))
    wanted = stored_tensors(model)
    refuse_mismatch(checkpoint, wanted, tied=HEAD not in wanted)
    reader = Reader(checkpoint, dtype=torch.float32, device=torch.device("cpu"))  # `into` asks for neither
    for name, tensor in wanted.items():
        reader.into(tensor, name)


def _rewritten(model: Qwen3, rewrite: Rewrite) -> Qwen3:
    """The model with another structure, still without numbers. A buffer would have none for ever."""
    changed = rewrite(model)
    if not isinstance(changed, Qwen3):
        raise ValueError(f"rewrite returned {changed!r}: it must return the model")
    refuse_buffers(changed)
    return changed


class NoDraws(TorchFunctionMode):
    """No random numbers are drawn for a model without memory: torch imports half of itself for them (2 s)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _pull(model: Qwen3, reader: "Reader") -> None:
    made: dict[nn.Parameter, nn.Parameter] = {}  # what was one parameter, a tied head's, is one again
    for path, module in leaves(model):
        if isinstance(module, Pulled):
            module.fill(path, reader)
            continue
        for name, like in list(module.named_parameters(recurse=False)):
            if like not in made:
                made[like] = reader.parameter(f"{path}.{name}", like)
            setattr(module, name, made[like])


class Reader:
    """Hands the tensors of a checkpoint to modules (the `Read` protocol), in one dtype on one device."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.device = device

    def __call__(self, name: str, rows: slice | None = None) -> Tensor:
        """The tensor `name` (or some of its rows) as it lies in the file, on the CPU."""
        return self.checkpoint.read(name, rows)

    def empty(self, like: Tensor) -> Tensor:
        """Memory for the (meta) parameter `like`: whole numbers in its own dtype."""
        return torch.empty(like.shape, dtype=self._dtype(like), device=self.device)

    def into(self, target: Tensor, name: str) -> None:
        """Copy the tensor `name` into `target`, converting it, a block of rows at a time."""
        entry = self.checkpoint.entries[name]
        assert target.shape == entry.shape, (name, target.shape, entry.shape)
        for rows in _blocks(entry):
            target[rows].copy_(self.checkpoint.read(name, rows))
            self.checkpoint.release(name, rows)

    def parameter(self, name: str, like: Tensor) -> nn.Parameter:
        """The tensor `name` as a parameter: a view of the map where that is possible."""
        if self.device.type == "cpu" and self.checkpoint.entries[name].dtype == self._dtype(like):
            return nn.Parameter(self.checkpoint.read(name), like.requires_grad)
        memory = self.empty(like)
        self.into(memory, name)
        return nn.Parameter(memory, like.requires_grad)

    def _dtype(self, like: Tensor) -> torch.dtype:
        return self.dtype if like.is_floating_point() else like.dtype


def _blocks(entry: Entry) -> list[slice]:
    num_rows = entry.shape[0]
    row = math.prod(entry.shape[1:]) * entry.dtype.itemsize
    step = max(1, BLOCK // max(row, 1))
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def choose_dtype(
    dtype: torch.dtype | str, entries: Mapping[str, Entry], *, declared: str | None, device: torch.device
) -> torch.dtype:
    """The dtype to compute in: the one asked for, else config.json's, else that of most of the file."""
    if dtype != "auto":
        asked = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if not isinstance(asked, torch.dtype):
            raise ValueError(f'dtype {dtype!r} is none of "auto", "bfloat16", "float32"')
        return _allowed(asked, device)
    chosen = _automatic(entries, declared=declared, device=device)
    size = sum(entry.stop - entry.start for entry in entries.values())
    if chosen == torch.bfloat16 and device.type == "cpu" and size > LARGE and slow_bfloat16():
        _log.warning(
            "this processor multiplies bfloat16 slowly, and no native code helps: float32 is faster, "
            "in twice the memory"
        )
    return chosen


def slow_bfloat16() -> bool:
    """Whether bfloat16 is emulated number by number here, and nothing of ours takes its place."""
    return not kernels.fast_bfloat16() and kernels.native() is not None


def _automatic(entries: Mapping[str, Entry], *, declared: str | None, device: torch.device) -> torch.dtype:
    sizes: dict[torch.dtype, int] = {}
    for entry in entries.values():
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.stop - entry.start
    stored = DTYPES[declared] if declared in DTYPES else max(sizes, key=lambda kind: sizes[kind])
    if stored == torch.float16 and device.type == "cpu":
        _log.warning("the weights are float16, which overflows and is slow on a CPU: converted to bfloat16")
        return torch.bfloat16
    return _allowed(torch.float32 if stored == torch.float64 else stored, device)


def _allowed(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    if dtype not in (torch.bfloat16, torch.float32, torch.float64, torch.float16):
        raise ValueError(f"dtype {dtype} can't be computed in: use bfloat16 or float32")
    if dtype == torch.float16 and device.type == "cpu":
        raise ValueError("float16 is a hundred times slower than bfloat16 on a CPU: use bfloat16 or float32")
    if dtype == torch.float16:
        _log.warning('float16 overflows in Qwen3 (answers turn into "!!!!"): bfloat16 is safe')
    return dtype


def refuse_unfit(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """WeightError for tensors that are quantised where the config keeps silent, or far too few for it."""
    if config.quantization_config is None:
        _refuse_quantised_tensors(checkpoint)
    _refuse_absurd_sizes(checkpoint, config)


def _refuse_absurd_sizes(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """A hostile config describes more than can be built even without memory: compare before building."""
    stored = sum(math.prod(entry.shape) for entry in checkpoint.entries.values())
    if config.num_parameters() > ABSURD * stored:
        raise WeightError(
            f"{checkpoint.folder}: the config describes {config.num_parameters():,} parameters, but the "
            f"files hold {stored:,}: they do not belong together"
        )


def refuse_mismatch(checkpoint: Checkpoint, wanted: Mapping[str, Tensor], *, tied: bool) -> None:
    entries = checkpoint.entries
    spare = {name for name in entries if name.endswith("rotary_emb.inv_freq") or (tied and name == HEAD)}
    missing = [name for name in wanted if name not in entries]
    surplus = [name for name in entries if name not in wanted and name not in spare]
    shapes = [
        f"{name} is {entries[name].shape}, by the config {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in entries and entries[name].shape != tuple(tensor.shape)
    ]
    dtypes = [
        f"{name} is {entries[name].dtype}, it must be {tensor.dtype}"
        for name, tensor in wanted.items()
        if name in entries and not tensor.is_floating_point() and entries[name].dtype != tensor.dtype
    ]
    kinds = [
        (dtypes, "quantised tensors have another dtype"),
        (missing, "of the model's tensors are missing"),
        (surplus, "tensors do not belong to the model"),
        (shapes, "tensors have another shape"),
    ]
    problems = [f"{len(names):,} {words}: {shown(names)}" for names, words in kinds if names]
    if problems:
        raise WeightError(f"{checkpoint.folder}: the weights do not fit the config. {'; '.join(problems)}")


def refuse_other_head(checkpoint: Checkpoint) -> None:
    """Tied models may store the head as well (0.6B does): then it must be the embedding, and is not kept."""
    head, embedding = checkpoint.entries[HEAD], checkpoint.entries[EMBEDDING]
    if head.shape != embedding.shape:
        raise WeightError(
            f"{head.path}: {HEAD} is {head.shape}, the embedding it is tied to {embedding.shape}"
        )
    if not checkpoint.same_bytes(HEAD, EMBEDDING):
        raise WeightError(
            f"{head.path}: the config ties {HEAD} to {EMBEDDING}, but they differ: "
            "the config or the file is wrong"
        )


def quantised_structure(config: ModelConfig, folder: str | Path, *, headless: bool = False) -> Rewrite | None:
    """What a quantised checkpoint's model is built by; None for floats. `folder` may be a hub name as well.

    WeightError for a config whose format is not read.
    """
    quantization = config.quantization_config
    if quantization is None:
        return None
    method = quantization.get("quant_method", "an unnamed method")
    if method != METHOD:
        raise WeightError(_unread(Path(folder), f"quantised with {method}"))
    try:
        body, head = schemes_in(quantization)
    except (ValueError, AttributeError, TypeError) as error:
        raise WeightError(_unread(Path(folder), f"quantised with {method}, and {error}")) from error
    return partial(quantize, scheme=body, head=None if headless else head)


def _refuse_quantised_tensors(checkpoint: Checkpoint) -> None:
    found = [
        name
        for name, entry in checkpoint.entries.items()
        if QUANTISED_NAME.search(name)
        or (name.endswith(".weight") and (entry.dtype.itemsize == 1 or not entry.dtype.is_floating_point))
    ]
    if found:
        raise WeightError(_unread(checkpoint.folder, f"quantised ({shown(found, 3)})"))


def _unread(folder: Path, what: str) -> str:
    name = str(folder)
    if folder.parent.name == "snapshots":  # the hub's cache: models--Qwen--Qwen3-4B-AWQ/snapshots/1cfa9a72...
        name = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    sibling = QUANTISED_SUFFIX.sub("", name)
    advice = f"{sibling} has" if sibling != name else "the model it was made from has"
    return f"{name} is {what}, a format that is not read yet: {advice} the weights without quantisation"
