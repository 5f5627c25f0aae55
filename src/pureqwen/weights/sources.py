"""What a user calls a model -> the folder that holds it.

    a folder that exists                    itself (also when its name has the form of a repository)
    "pocket", "pocket-moe"                  the models that ship inside the package (unless a folder of this
                                            name holds a checkpoint)
    owner/name, e.g. Qwen/Qwen3-0.6B        fetched from the hub, or found in its cache
    ./x, ../x, ~/x, /x, x\\y                 meant as a folder: "no such folder" when it is none

Of a repository, config.json is fetched and judged first, so that nobody waits for gigabytes that can't be
read. It reads nothing else; hub.py does the fetching.
"""

import os
from importlib.resources import files
from pathlib import Path

from pureqwen.config import ModelConfig
from pureqwen.hub import fetch
from pureqwen.weights.load import quantised_structure

INSIDE = {"pocket": "pocket", "pocket-moe": "pocket_moe"}  # the package: names and folders of its models


def resolve(name: str | Path, *, revision: str | None = None) -> Path:
    """The folder that `name` means.

    Raises ValueError: no such folder; HubError when fetching fails; UnsupportedModel or WeightError when the
    repository holds another architecture or a quantised format, before its weights are fetched.

    revision is a branch, tag or commit of the hub; a folder on this machine has none, so giving both is an
    error.
    """
    if not str(name).strip():
        raise ValueError("the name of the model is empty: give a folder, owner/name, or pocket")
    folder = Path(os.path.expanduser(name))
    if (
        name in INSIDE and not (folder / "config.json").is_file()
    ):  # a folder of another kind is not in the way
        return _without(revision, _inside(str(name)), "a model inside the package")
    if os.path.isdir(folder):  # unlike Path's own, these two only answer, also for names no system allows
        return _without(revision, folder, "a folder on this machine")
    if os.path.exists(folder):
        raise ValueError(f"{folder} is a file: give the folder that holds config.json and the weights")
    if isinstance(name, Path) or looks_like_a_path(name):
        raise ValueError(f"no such folder: {folder}")
    config = ModelConfig.from_pretrained(fetch(name, revision=revision, allow_patterns=("config.json",)))
    quantised_structure(config, name)  # a format that is not read need not be fetched
    return fetch(name, revision=revision)


def looks_like_a_path(name: str) -> bool:
    """Whether a name that is no folder was surely meant as one: no repository is called so."""
    return name[0] in ".~/" or "\\" in name or name.count("/") > 1 or os.path.isabs(name)


def _without(revision: str | None, folder: Path, what: str) -> Path:
    if revision is not None:
        raise ValueError(f"revision {revision!r} is for models of the hub, but {folder} is {what}")
    return folder


def _inside(name: str) -> Path:
    folder = Path(str(files("pureqwen"))) / INSIDE[name]
    if not (folder / "config.json").is_file():
        raise ValueError(f"a model inside the package is missing ({folder}): install pureqwen again")
    return folder
