"""A model -> weight files that transformers, and everyone else, reads: shards, index, config.json.

    model.safetensors                                  when all fits in one file, else
    model-00001-of-00002.safetensors, ...  and  model.safetensors.index.json
    config.json                                        with the dtype that was saved

Names and shapes are the checkpoint's: names.py undoes the stacking of experts, a tied head is not written,
and a model without a head is written as embedding models are, without the `model.` prefix. A file is
streamed tensor by tensor. Its data begin at a multiple of 64 bytes, and tensors whose size is a multiple of
64 come first, so that each of those is aligned for any vector unit when the file is mapped (the format
allows no holes between tensors).

All files are written under temporary names and put in place by a rename when every one is complete. So a
crash or a full disk leaves what was there, and a model may be saved over the folder that its own weights
are mapped from. It writes no tokenizer, no template, no generation_config.json: those are copied by who
holds them.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from pureqwen.config import ModelConfig
from pureqwen.weights.files import DTYPES, INDEX, SINGLE
from pureqwen.weights.names import refuse_buffers, stored_tensors

ALIGNMENT = 64
HUGE = 2 << 20  # bytes of a huge page
MOST = 64 << 20  # bytes that are written at a time: systems take no more than 2 GB
SHARD_BYTES = 5_000_000_000
NAMES = {dtype: name for name, dtype in DTYPES.items()}
OURS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|\.model.*\.tmp")


def save_model(
    model: nn.Module,
    folder: str | Path,
    *,
    config: ModelConfig,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the weights and config.json of `model` into `folder`, which is made if need be.

    A shard holds at most max_shard_bytes of tensors, or one tensor that is larger. Weight files of an
    earlier save that the new one does not replace are removed. Raises ValueError for a folder that can't be
    one and OSError (disk full, no permission) with what was there left as it was.
    """
    refuse_buffers(model)
    tensors = stored_tensors(model)
    write_checkpoint(
        tensors, folder, config=config, make=tensors.__getitem__, max_shard_bytes=max_shard_bytes
    )


def write_checkpoint(
    tensors: Mapping[str, Tensor],
    folder: str | Path,
    *,
    config: ModelConfig,
    make: Callable[[str], Tensor],
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """The same by names: `tensors` may lie on the meta device, `make(name)` gives each when it is written."""
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}, it must be at least 1")
    folder = Path(folder)
    headless = not config.tie_word_embeddings and not any(name.startswith("lm_head.") for name in tensors)
    shards = _split(tensors, max_shard_bytes)
    files = [SINGLE] if len(shards) == 1 else [_shard_name(n, len(shards)) for n in range(1, len(shards) + 1)]
    with Replacement(folder) as new:
        for name, shard in zip(files, shards, strict=True):
            _write_safetensors(new.path(name), shard, make, bare=headless)
        if len(files) > 1:
            index = {
                "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
                "weight_map": {
                    _stored(t, bare=headless): name
                    for name, shard in zip(files, shards, strict=True)
                    for t in shard
                },
            }
            _write_json(new.path(INDEX), index)
        content = _config_dict(config, tensors, headless=headless)
        _write_json(new.path("config.json"), content)
    kept = {*files, INDEX} if len(files) > 1 else set(files)
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all: under a temporary name, then renamed."""
    path = Path(path)
    with Replacement(path.parent) as new:
        _write_json(new.path(path.name), content)


class Replacement:
    """Files that replace those of a folder together, at the end of a `with` block that did not fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pending: dict[Path, Path] = {}

    def __enter__(self) -> "Replacement":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"can't save into {self.folder}: a file of that name is in the way") from error
        except OSError as error:
            raise _explained(error, self.folder) from error
        return self

    def path(self, name: str) -> Path:
        """Where to write what will be `name` in the folder."""
        temporary = self.folder / f".{name}.tmp"  # a fixed name: what a killed process left is overwritten
        self.pending[temporary] = self.folder / name
        return temporary

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                for temporary, final in self.pending.items():
                    os.replace(temporary, final)
        except OSError as replacing:
            raise _explained(replacing, self.folder) from replacing
        finally:
            for temporary in self.pending:
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _explained(error, self.folder) from error


def _explained(error: OSError, folder: Path) -> OSError:
    """The same error, saying what was being done and that nothing was lost."""
    words = f"can't save into {folder}: {error.strerror or error}; the files that were there are as they were"
    found = type(error)(words)
    found.errno = error.errno
    return found


def _split(tensors: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _shard_name(number: int, total: int) -> str:
    return f"model-{number:05}-of-{total:05}.safetensors"


def _stored(name: str, *, bare: bool) -> str:
    """The name in the file: without a head, as embedding models have it, without the prefix."""
    return name.removeprefix("model.") if bare else name


def _write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], make: Callable[[str], Tensor], *, bare: bool
) -> None:
    # Sizes that are multiples of 64 first, then of 32, 16, ...: each tensor starts at a multiple of what
    # divides its own size, the first ones at multiples of 64.
    ordered = sorted(tensors, key=lambda name: -_alignment(tensors[name].nbytes))
    with open(path, "wb") as file:
        pages = HugePages(file)
        pages.write(_header({_stored(name, bare=bare): tensors[name] for name in ordered}))
        for name in ordered:
            tensor = make(name)
            assert (tensor.dtype, tensor.shape) == (tensors[name].dtype, tensors[name].shape), name
            pages.write(_bytes(tensor))
        pages.finish()
        file.flush()
        os.fsync(file.fileno())  # a rename may reach the disk before the data do


class HugePages:
    """What is written goes to `file` in whole multiples of HUGE bytes: a file system that can then keeps it
    in memory in pages of that size, and who maps the file reads it up to a half faster than in small ones.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.rest = bytearray()  # less than a page

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        missing = -len(self.rest) % HUGE
        self.rest += view[:missing]
        view = view[missing:]
        if not view:
            return
        self.file.write(self.rest)  # nothing, or a page
        whole = len(view) - len(view) % HUGE
        for start in range(0, whole, MOST):
            self.file.write(view[start : min(start + MOST, whole)])
        self.rest = bytearray(view[whole:])

    def finish(self) -> None:
        """Write what is left."""
        self.file.write(self.rest)


def _alignment(num_bytes: int) -> int:
    return min(num_bytes & -num_bytes, ALIGNMENT) or ALIGNMENT


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Length and JSON, padded with spaces so that the data begin at a multiple of 64."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for this word
    start = 0
    for name, tensor in tensors.items():
        stop = start + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-(8 + len(raw)) % ALIGNMENT)
    return len(raw).to_bytes(8, "little") + raw


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _config_dict(config: ModelConfig, tensors: Mapping[str, Tensor], *, headless: bool) -> dict[str, Any]:
    """config.json with the dtype of most floats that are saved, and the class that has a head or none."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in filter(Tensor.is_floating_point, tensors.values()):
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    name = str(max(sizes, key=lambda kind: sizes[kind])).removeprefix("torch.")
    content = replace(config, torch_dtype=name).to_dict()
    if headless:
        content["architectures"] = [one.replace("ForCausalLM", "Model") for one in content["architectures"]]
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
