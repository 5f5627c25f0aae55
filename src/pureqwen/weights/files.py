"""A folder's safetensors files as one table of tensors, read through memory maps.

    model.safetensors   or   model.safetensors.index.json + model-00001-of-00003.safetensors ...

    one file:  | n: u64 | header: n bytes of JSON: name -> dtype, shape, offsets | tensor | tensor | ... |

The safetensors library judges each file (a header that lies is refused there); the offsets are then taken
from the header, and the bytes from a private, copy-on-write map by Python's mmap. So a tensor is a view of
the map: nothing is read before it is used, processes share one copy, and writing never reaches the file.
`read` gives a tensor or some of its rows, `release` hands pages back after their values were copied.

What it does not do: it knows no model and converts nothing (load.py does), it never opens a pickle, and it
follows no index out of the folder.
Source: the safetensors format, https://huggingface.co/docs/safetensors.
"""

import json
import math
import mmap
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER = 100_000_000  # bytes, as the safetensors library has it
COMPARED = 256 << 10  # bytes that are compared at a time: they stay in the processor's cache
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class WeightError(ValueError):
    """Weight files that are broken, incomplete or not the model's; the message names file and tensor."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one tensor lies: bytes [start, stop) of the file's map."""

    path: Path
    map: mmap.mmap
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class Checkpoint:
    """All tensors of a folder by name. A tensor that was read keeps its map alive on its own."""

    def __init__(self, folder: Path, entries: dict[str, Entry]) -> None:
        self.folder = folder
        self.entries = entries

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Tensor `name`, or its rows [start, stop) of the first axis: a view of the map, in its dtype.

        Bytes that do not lie on a multiple of the element size are copied, since no view of them is possible.
        """
        entry = self.entries[name]
        start, stop = _span(entry, rows)
        shape = entry.shape if rows is None else (rows.stop - rows.start, *entry.shape[1:])
        if start == stop:  # torch.frombuffer takes no empty range
            return torch.empty(shape, dtype=entry.dtype)
        if start % entry.dtype.itemsize:
            raw = torch.frombuffer(entry.map, dtype=torch.uint8, count=stop - start, offset=start)
            return raw.clone().view(entry.dtype).view(shape)
        count = (stop - start) // entry.dtype.itemsize
        return torch.frombuffer(entry.map, dtype=entry.dtype, count=count, offset=start).view(shape)

    def release(self, name: str, rows: slice | None = None) -> None:
        """Drop the pages under a tensor (or rows of it) from memory; a later use fetches them again.

        Only while loading: whole pages go, neighbours' bytes too, and so would what was written there.
        """
        if sys.platform != "linux":  # elsewhere madvise is a hint that drops nothing, or is missing
            return
        entry = self.entries[name]
        start, stop = _span(entry, rows)
        start -= start % mmap.PAGESIZE
        if stop > start:
            entry.map.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def same_bytes(self, name: str, other: str) -> bool:
        """Whether two tensors are equal bit for bit, told without mapping a page of either."""
        a, b = self.entries[name], self.entries[other]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        with open(a.path, "rb", buffering=0) as first, open(b.path, "rb", buffering=0) as second:
            first.seek(a.start)
            second.seek(b.start)
            sizes = (min(COMPARED, a.stop - start) for start in range(a.start, a.stop, COMPARED))
            return all(first.read(size) == second.read(size) for size in sizes)


def open_folder(folder: Path) -> Checkpoint:
    """The table of tensors in `folder`; files are judged, not read. WeightError when something is wrong."""
    if not folder.is_dir():
        raise WeightError(f"no such folder: {folder}")
    if (folder / SINGLE).is_file():
        return Checkpoint(folder, dict(_file_entries(folder / SINGLE)))
    if (folder / INDEX).is_file():
        return _open_indexed(folder)
    paths = sorted(path for path in folder.glob("*.safetensors") if path.is_file())  # no pipe, no dead link
    if not paths:
        raise WeightError(_why_nothing(folder))
    _refuse_gaps(folder, [path.name for path in paths])
    return Checkpoint(folder, _gather(paths))


def _open_indexed(folder: Path) -> Checkpoint:
    weight_map = _read_index(folder / INDEX)
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WeightError(
            f"{folder}: {INDEX} needs {len(names)} files, but these are missing: {shown(missing)}"
        )
    entries = _gather(folder / name for name in names)
    lost = [f"{t} ({s})" for t, s in weight_map.items() if t not in entries or entries[t].path.name != s]
    if lost:
        raise WeightError(f"{folder}: {INDEX} names tensors that their files do not hold: {shown(lost)}")
    return Checkpoint(folder, entries)


def _read_index(path: Path) -> dict[str, str]:
    """tensor -> file of the index; a file must be a plain name in the same folder."""
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        pairs = list(weight_map.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightError(
            f"{path} is not an index of safetensors ({type(error).__name__}: {error})"
        ) from error
    for tensor, name in pairs:
        # Not asked of pathlib: what is a path on another system must be refused on this one too.
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\:\0]+\.safetensors", name):
            raise WeightError(
                f"{path}: tensor {tensor} is said to be in {name!r}; only the plain name of a *.safetensors "
                "file in the same folder is followed"
            )
    if not pairs:
        raise WeightError(f"{path} lists no tensors")
    return weight_map  # type: ignore[no-any-return]  # checked above, entry by entry


def _gather(paths: Iterable[Path]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for path in paths:
        for name, entry in _file_entries(path):
            if name in entries:
                raise WeightError(f"tensor {name} is in two files: {entries[name].path} and {path}")
            entries[name] = entry
    return entries


def _refuse_gaps(folder: Path, names: list[str]) -> None:
    """Without an index the files' numbers (model-00002-of-00003.safetensors) tell whether one is missing."""
    for name in names:
        if match := re.fullmatch(r"(.*-)(\d+)-of-(\d+)\.safetensors", name):
            stem, digits, total = match[1], len(match[2]), int(match[3])
            if total > 100_000:
                raise WeightError(f"{folder}: {name} claims to be one of {total:,} files")
            wanted = [f"{stem}{i:0{digits}}-of-{match[3]}.safetensors" for i in range(1, total + 1)]
            if missing := [w for w in wanted if w not in names]:
                raise WeightError(
                    f"{folder}: {name} is one of {total} files, but these are missing: {shown(missing)}"
                )


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights of any kind, also of one that is not read."""
    ends = (".safetensors", INDEX, ".gguf", *PICKLES)
    return any(path.name.endswith(ends) for path in folder.iterdir())


def _why_nothing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return (
            f"{folder} holds its weights only as pickle ({shown(pickles)}), which pureqwen never loads, "
            "because unpickling runs whatever code is in the file. Take a release with *.safetensors files, "
            "or, if you trust the source, convert it once with transformers: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        return f"{folder} holds GGUF ({shown(ggufs)}), which is not read yet: take the *.safetensors release"
    found = f"it holds {shown(names)}" if names else "it is empty"
    return f"{folder} has no weights: {SINGLE}, or {INDEX} with its files, is expected there; {found}"


def _file_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    header, data_start = _read_header(path)
    with open(path, "rb") as file:
        # Copy on write: torch asks for a writable buffer, and nobody's file is ever changed through it.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel without huge pages
            mapped.madvise(mmap.MADV_HUGEPAGE)  # what is not in memory yet is read into pages of 2 MB
    for name, info in header.items():
        if name == "__metadata__":
            continue
        if info["dtype"] not in DTYPES:
            raise WeightError(f"{path}: tensor {name} is stored as {info['dtype']}, which is not read")
        start, stop = info["data_offsets"]
        yield (
            name,
            Entry(
                path=path,
                map=mapped,
                dtype=DTYPES[info["dtype"]],
                shape=tuple(info["shape"]),
                start=data_start + start,
                stop=data_start + stop,
            ),
        )


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, judged by the safetensors library, and where the data begins."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise WeightError(
                f"{path} is not a whole safetensors file: it has {size:,} bytes, "
                f"and its header would have {length:,} (at most {MAX_HEADER:,} are read)"
            )
        raw = file.read(length)
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        why = _truncation(raw, size) or f"is not a valid safetensors file: {error}"
        raise WeightError(f"{path} {why}") from error
    return json.loads(raw, object_pairs_hook=lambda pairs: _unique(path, pairs)), 8 + length


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise WeightError(f"{path} is not a valid safetensors file: its header has the same key twice")
    return found


def _truncation(raw: bytes, size: int) -> str | None:
    """The words for a file that ends before its last tensor does, None when that is not what is wrong."""
    try:
        header = json.loads(raw)
        end = max(info["data_offsets"][1] for name, info in header.items() if name != "__metadata__")
        missing = 8 + len(raw) + end - size
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    if missing <= 0:
        return None
    return f"is truncated: it has {size:,} bytes, its header needs {size + missing:,}; fetch the file again"


def _span(entry: Entry, rows: slice | None) -> tuple[int, int]:
    """Bytes [start, stop) of the map that hold the rows."""
    if rows is None:
        return entry.start, entry.stop
    assert 0 <= rows.start <= rows.stop <= entry.shape[0], (rows, entry.shape)
    row = math.prod(entry.shape[1:]) * entry.dtype.itemsize
    return entry.start + rows.start * row, entry.start + rows.stop * row


def shown(names: list[str], most: int = 10) -> str:
    """'a, b and 3 more' for messages: a wrong folder can be wrong about thousands of tensors."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
