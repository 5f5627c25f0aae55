"""Finding modules by path, and putting others in their place.

A path is a module's name as the checkpoint has it; in a pattern each part between two dots may be a glob:

    model.layers.*.mlp              the feed-forward network of every layer
    model.layers.[0-3].mlp          of the first four
    model.layers.*.self_attn.*_proj all four projections of every attention

A part never reaches over a dot, so all matches lie at one depth and none lies inside another. Nothing is
copied: the model that is given is changed. It knows no Qwen3; any nn.Module will do.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import nn

from pureqwen.model import Qwen3

Model = TypeVar("Model", bound=nn.Module)
Make = Callable[[str, nn.Module], nn.Module]
Rewrite = Callable[[Qwen3], Qwen3]

NUM_SHOWN = 5  # paths that an error message proposes


def find(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """Path -> module for every module whose path `pattern` fits, in the model's order.

    A module that stands at several paths is listed at each. ValueError, with the nearest paths, for none.
    """
    modules = {path: module for path, module in model.named_modules(remove_duplicate=False) if path}
    parts = pattern.split(".")
    found = {path: module for path, module in modules.items() if _fits(path.split("."), parts)}
    if not found:
        kinds = dict.fromkeys(re.sub(r"(?<=\.)\d+\b", "*", path) for path in modules)
        nearest = sorted(kinds, key=lambda kind: -SequenceMatcher(None, kind, pattern).ratio())
        raise ValueError(
            f"no module's path fits {pattern!r}; there are, among others: {', '.join(nearest[:NUM_SHOWN])}"
        )
    return found


def replace(model: Model, pattern: str, make: Make) -> Model:
    """Puts `make(path, old)` in the place of every module whose path `pattern` fits; returns the same model.

    While `make` runs, new tensors get the device and the dtype of the old module's, unless it asks for
    others: the same `make` serves on the meta device, before loading, and on a loaded model. It may return
    `old`, or keep it inside what it returns. The new module is in training or evaluation as the old one was.

    A module that stands at several paths is replaced by one, for all of them that fit. A parameter that is
    shared with a module elsewhere (the embedding, by a tied head) stays shared: the new module has the very
    parameter, or takes it in the place of its own of that name.

    Raises ValueError: when nothing fits, when `make` returns no module, and when a shared parameter has no
    place in the new one.
    """
    found = find(model, pattern)
    made: dict[nn.Module, nn.Module] = {}
    for path, old in found.items():
        if old not in made:
            with _made_like(old):
                new = make(path, old)
            if not isinstance(new, nn.Module):
                raise ValueError(f"make returned {new!r} for {path}: it must return a module")
            made[old] = new.train(old.training)
    _share(model, found, made)
    for path, old in found.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, made[old])
    return model


def _fits(path: list[str], pattern: list[str]) -> bool:
    return len(path) == len(pattern) and all(map(fnmatchcase, path, pattern))


@contextmanager
def _made_like(old: nn.Module) -> Iterator[None]:
    """Tensors are made on the device and in the dtype of the first parameter of `old`."""
    like = next(old.parameters(), None)
    if like is None:
        yield
        return
    before = torch.get_default_dtype()
    try:
        if like.is_floating_point() and like.dtype.itemsize > 1:  # in 8 bits nothing is computed
            torch.set_default_dtype(like.dtype)
        with like.device:
            yield
    finally:
        torch.set_default_dtype(before)


def _share(model: nn.Module, found: Mapping[str, nn.Module], made: Mapping[nn.Module, nn.Module]) -> None:
    """Gives new modules the parameters that the old ones shared with modules which stay."""
    leaving = {module for old in made for module in old.modules()}
    staying = {
        id(parameter)
        for module in model.modules()
        if module not in leaving
        for parameter in module.parameters(recurse=False)
    }
    for path, old in found.items():
        kept = {id(parameter) for parameter in made[old].parameters()}
        for name, parameter in old.named_parameters():
            if id(parameter) in staying and id(parameter) not in kept:
                _take(made[old], name, parameter, path)


def _take(new: nn.Module, name: str, parameter: nn.Parameter, path: str) -> None:
    own = dict(new.named_parameters()).get(name)
    if own is None or own.shape != parameter.shape:
        raise ValueError(
            f"{path}.{name} is shared with a module that stays (a tied head is the embedding), and the new "
            f"{type(new).__name__} has no parameter {name} of shape {tuple(parameter.shape)} to share: give "
            "it one, or untie the two first (tie_word_embeddings in the config)"
        )
    parent, _, leaf = name.rpartition(".")
    setattr(new.get_submodule(parent), leaf, parameter)
