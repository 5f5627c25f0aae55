"""Who may import whom. Import statements are read, those inside functions and under TYPE_CHECKING too."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

# A module may import modules of a smaller number, and files of its own folder.
LINES = {
    "garbage": 0,
    "hub": 0,
    "memory": 0,
    "pocket": 0,  # data, no code
    "pocket_moe": 0,  # data, no code
    "config": 1,
    "tokenizer": 1,
    "chat": 1,
    "model": 2,
    "kernels": 2,
    "cache": 3,
    "rewrite": 3,
    "weights": 4,
    "generate": 5,
    "train": 5,
    "qwen": 6,
    "explain": 6,
    "evaluate": 7,
    "serve": 7,
    "cli": 8,
}
NEVER = {("train", "cache")}  # allowed by the numbers, forbidden all the same
ENTRANCES = ("__init__.py", "__main__.py")  # these two only point at names


def room(path: str) -> str:
    """config/model.py -> config, tokenizer.py -> tokenizer."""
    return path.split("/")[0].removesuffix(".py")


def imported(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import; relative ones are made absolute."""
    folder = ["pureqwen", *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "pureqwen":  # from pureqwen import config, or from . import config
                yield from ((node.lineno, f"pureqwen.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def offences(path: str, tree: ast.Module) -> Iterator[str]:
    here = room(path)
    for line, module in imported(path, tree):
        parts = module.split(".")
        if parts[0] != "pureqwen":
            continue
        there = parts[1] if len(parts) > 1 else ""
        if there == here or (here in ("cli", "serve") and there in ("", "__version__")):
            continue
        if there not in LINES:
            yield f"{path}:{line} imports {module}, which has no line of its own"
        elif LINES[there] >= LINES[here] or (here, there) in NEVER:
            yield f"{path}:{line}: {here} may not import {there}"


def test_a_room_imports_only_the_lines_above_it(trees: dict[str, ast.Module]) -> None:
    wrong = [text for path, tree in trees.items() if path not in ENTRANCES for text in offences(path, tree)]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_line(trees: dict[str, ast.Module]) -> None:
    assert {room(path) for path in trees if path not in ENTRANCES} <= set(LINES)


@pytest.mark.parametrize(
    "code",
    [
        "from pureqwen.generate import loop",
        "from ..generate.loop import decode",
        "def f():\n    import pureqwen.cli",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pureqwen.qwen import Qwen",
        "from pureqwen import cache",
        "from pureqwen import Qwen",
    ],
)
def test_the_reader_of_imports_sees_each_way_to_write_one(code: str) -> None:
    assert len(list(offences("model/block.py", ast.parse(code)))) == 1
    assert not list(offences("model/block.py", ast.parse("from pureqwen.config import ModelConfig")))


def test_train_importing_the_cache_is_seen() -> None:
    assert list(offences("train/loop.py", ast.parse("from pureqwen.cache import StaticCache")))


def test_config_chat_and_hub_name_no_torch(trees: dict[str, ast.Module]) -> None:
    torch_free = {path: tree for path, tree in trees.items() if room(path) in ("config", "chat", "hub")}
    wrong = [
        f"{path}:{line} imports {module}"
        for path, tree in torch_free.items()
        for line, module in imported(path, tree)
        if module.split(".")[0] in ("torch", "safetensors")
    ]
    assert not wrong, "\n".join(wrong)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_config_and_chat_work_where_torch_is_never_loaded() -> None:
    run("import sys, pureqwen.config, pureqwen.chat; assert 'torch' not in sys.modules, 'torch was loaded'")


def test_import_pureqwen_is_lazy() -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'tokenizers', 'jinja2', 'cyclopts', 'rich'}"
    run(f"import sys, pureqwen; loaded = {heavy} & set(sys.modules); assert not loaded, loaded")


def test_importing_every_public_name_opens_no_socket_and_no_transformers() -> None:
    code = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith("socket.") else None)
import pureqwen
for name in pureqwen.__all__:
    getattr(pureqwen, name)
reached = set(seen) - {"socket.__new__", "socket.gethostname"}
assert not reached, reached
assert "transformers" not in sys.modules, "transformers is for the tests alone"
"""
    run(code)
