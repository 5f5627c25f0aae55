"""Names: which tensor of a file is which parameter, in both directions.

Most parameters stand in the file under their own path. A `Pulled` module says otherwise in `fill`, by
copying named tensors into places of its own; here the same `fill` is run with nothing to read, to learn
which place has which name. So one description serves three times: for what loading needs, in which shapes,
and for saving.

    experts.gate_proj (E, F, D)       <->  experts.0.gate_proj.weight (F, D), ..1.gate_proj.weight (F, D), ...

Files also differ among themselves; `canonical` brings them to the common names by renaming, without
touching data:

    embed_tokens.weight                ->  model.embed_tokens.weight           Embedding checkpoints
    experts.gate_up_proj (E, 2F, D)    ->  experts.0.gate_proj.weight (F, D), ...    one tensor a layer

It reads and writes no file, and copies no numbers.
"""

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor, nn

from pureqwen.model import Pulled
from pureqwen.weights.files import Entry, WeightError, shown

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of everything that holds parameters itself, in the model's order."""
    for path, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            yield path, module


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """name in the file -> the parameter, or the view of one, that belongs there. A tied head appears once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, module in leaves(model):
        if isinstance(module, Pulled):
            found |= _places(path, module)
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                found[f"{path}.{name}"] = parameter.detach()
            seen.add(id(parameter))
    return found


def refuse_buffers(model: nn.Module) -> None:
    """ValueError where a (rewritten) model holds buffers: a checkpoint is read and written by parameters."""
    names = [name for name, _ in model.named_buffers()]
    if names:
        raise ValueError(
            f"{shown(names)}: a checkpoint keeps no buffers; make it a parameter (requires_grad=False where "
            "it is not learned), or compute it in forward"
        )


class _Places:
    """A `Read` that reads nothing: memory is what the module already has, and each `into` is noted."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def __call__(self, name: str, rows: slice | None = None) -> Tensor:
        raise AssertionError(f"{name} is made from file tensors in a way that can't be undone yet")

    def empty(self, like: Tensor) -> Tensor:
        return like.detach()

    def into(self, target: Tensor, name: str) -> None:
        self.found[name] = target


def _places(path: str, module: nn.Module) -> dict[str, Tensor]:
    # `fill` puts new parameters into the module it is called on. A twin that shares the numbers takes them,
    # so that an optimizer's hold on the real ones survives.
    twin = copy.copy(module)
    twin._parameters = dict(module._parameters)
    assert isinstance(twin, Pulled)
    places = _Places()
    twin.fill(path, places)
    assert sorted(places.found) == sorted(twin.sources(path)), path
    return places.found


def is_bare(entries: Mapping[str, Entry]) -> bool:
    """Whether the file is a decoder's alone, without the `model.` prefix, as embedding models have it."""
    return "embed_tokens.weight" in entries


def canonical(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The table under the common names: with the `model.` prefix, one tensor per expert."""
    bare = is_bare(entries)
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        if bare and name.split(".")[0] in ("embed_tokens", "layers", "norm", "rotary_emb"):
            name = f"model.{name}"
        for part, piece in _unstacked(name, entry).items():
            if part in found:
                raise WeightError(f"{entry.path}: tensor {part} is stored twice, under different names")
            found[part] = piece
    return found


def _unstacked(name: str, entry: Entry) -> dict[str, Entry]:
    """experts.gate_up_proj (E, 2F, D) and experts.down_proj (E, D, F), each cut into an entry per expert."""
    match = re.fullmatch(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)", name)
    if not match or len(entry.shape) != 3:
        return {name: entry}
    parts = ["down_proj"] if match[2] == "down_proj" else ["gate_proj", "up_proj"]
    num_experts, num_rows, width = entry.shape
    if num_rows % len(parts):
        return {name: entry}
    shape = (num_rows // len(parts), width)
    size = math.prod(shape) * entry.dtype.itemsize
    pieces = [(e, part) for e in range(num_experts) for part in parts]  # as they lie in the file
    return {
        f"{match[1]}.{e}.{part}.weight": replace(
            entry, shape=shape, start=entry.start + n * size, stop=entry.start + (n + 1) * size
        )
        for n, (e, part) in enumerate(pieces)
    }
