"""The article: it runs, it is quick, its links resolve, and its page is what it last printed."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT, PAGE, PICTURES = DOCS / "from_scratch.py", DOCS / "from_scratch.md", DOCS / "from_scratch"
STEPS = (
    "Tokens",
    "RMSNorm",
    "RoPE",
    "Grouped-query attention with QK-norm",
    "SwiGLU",
    "Block",
    "Model",
    "Loading weights",
    "Generation",
    "KV cache",
    "Mixture of experts",
    "Thinking",
)
LINK = re.compile(r"\[(?:`([^`]+)`|[^]]*)\]\((?!https?:|#)([^)#]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
# The script as a program of its own, in which every way to a network is an error.
OFFLINE = """
import runpy, sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise RuntimeError(f"{event} {args[1:]}: the article needs no network")
sys.addaudithook(refuse)
sys.path.insert(0, sys.argv[1])
runpy.run_path(sys.argv[2], run_name="__main__")
"""


class Run(NamedTuple):
    """What the article printed, and how long a processor worked on it, compilers included."""

    printed: str
    seconds: float


def run(cache: Path) -> Run:
    quiet = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", OFFLINE, str(DOCS), str(SCRIPT)]
    before = os.times()
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, timeout=1200)
    after = os.times()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Warning" not in done.stderr, done.stderr
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(done.stdout, used)


@pytest.fixture(scope="module")
def article(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run. A second one where the first had to compile, which each machine does once."""
    kept = getattr(pytestconfig, "cache", None)
    folder = Path(kept.mkdir("from-scratch-compiled") if kept else tmp_path_factory.mktemp("compiled"))
    first = run(folder)
    return first if first.seconds < 60 else run(folder)


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return module_of(DOCS / "generate.py")


def names_in(path: Path) -> set[str]:
    """`RMSNorm`, `RMSNorm.forward`, ...: what a Python file defines at its top, or in a class there."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            inside = [child for child in node.body if isinstance(child, ast.FunctionDef)]
            found |= {node.name, *(f"{node.name}.{child.name}" for child in inside)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


def broken(text: str) -> list[str]:
    """The links of a page that lead nowhere: no such file, or no such class or function in it."""
    wrong = []
    for name, target in LINK.findall(text):
        path = (DOCS / target).resolve()
        if not path.is_file() or (path.suffix == ".py" and name and name not in names_in(path)):
            wrong.append(f"[{name}]({target})")
    return wrong


def prose(text: str) -> str:
    return FENCE.sub("", text)


def test_the_article_runs_without_a_network_in_less_than_a_minute(article: Run) -> None:
    """Whoever executes it must not lose patience, and no test run either. Counted is the time that a
    processor worked, so that a busy machine is not the article's fault.
    """
    assert article.seconds < 60


def test_the_last_table_measures_all_eight_ways(article: Run) -> None:
    rows = re.findall(
        r"^\| ([18]) \| (no|yes) \| (eager|compiled) \| (.+?) \|", article.printed, re.MULTILINE
    )
    ways = {(texts, cache, how) for texts in "18" for cache in ("no", "yes") for how in ("eager", "compiled")}
    assert {row[:3] for row in rows} == ways and len(rows) == 8
    if shutil.which("g++"):
        assert all(float(speed.replace(",", "")) > 0 for *_, speed in rows)


def test_every_step_is_there_in_order_and_names_its_code() -> None:
    text = prose(PAGE.read_text())
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [section.split("\n")[0] for section in sections[: len(STEPS)]] == [
        section.split("\n")[0]
        for number, step in enumerate(STEPS, 1)
        for section in sections
        if section.startswith(f"{number}. {step}")
    ]
    for section in sections[: len(STEPS)]:
        assert re.search(r"\[`[\w.]+`\]\(\.\./src/pureqwen/", section), section.split("\n")[0]


def test_every_link_resolves_to_a_file_and_the_class_or_function_in_it() -> None:
    text = prose(PAGE.read_text())
    assert len(LINK.findall(text)) >= 30
    assert broken(text) == []


@pytest.mark.parametrize(
    "link",
    [
        "[`RMSNorm.backwards`](../src/pureqwen/model/layers.py)",
        "[`LayerNorm`](../src/pureqwen/model/layers.py)",
        "[`RMSNorm`](../src/pureqwen/model/norms.py)",
        "[a page](nowhere.md)",
    ],
)
def test_a_renamed_function_or_file_is_noticed(link: str) -> None:
    assert broken(f"see {link} there") == [link.replace("`", "").replace("[a page]", "[]")]


def test_the_page_is_what_the_script_last_printed(generator: ModuleType) -> None:
    assert generator.is_fresh(SCRIPT), "run: make docs"


@pytest.mark.parametrize("changed", ["from_scratch.py", "pocket/model.safetensors", "pictures.py"])
def test_a_page_is_stale_when_its_script_its_drawings_or_the_pocket_changed(
    changed: str, generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def other(path: Path) -> bytes:
        return read(path) + b" " * path.as_posix().endswith(changed)

    monkeypatch.setattr(Path, "read_bytes", other)
    assert not generator.is_fresh(SCRIPT)


def test_a_page_whose_picture_is_missing_is_stale(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = shutil.copy(SCRIPT, tmp_path)
    shutil.copy(PAGE, tmp_path)
    assert not generator.is_fresh(Path(script))
    shutil.copytree(PICTURES, tmp_path / "from_scratch")
    assert generator.is_fresh(Path(script))


def test_the_pictures_are_those_of_the_page_and_small() -> None:
    linked = re.findall(r"^!\[[^]]+\]\(from_scratch/([\w-]+\.png)\)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(linked) == sorted(path.name for path in PICTURES.iterdir())
    assert len(linked) >= 6
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 600_000


def test_the_page_shows_every_cell_of_the_script() -> None:
    executor = module_of(DOCS / "execute.py")
    page = PAGE.read_text()
    for cell in executor.cells(SCRIPT.read_text()):
        assert cell.source in page


def test_a_cell_s_output_and_drawing_stand_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = module_of(DOCS / "execute.py")
    script = tmp_path / "small.py"
    script.write_text(
        "# %% [markdown]\n# # Title\n#\n# text\n\n# %%\nprint('one')\nprint('| a |')\nprint('|---|')\n\n"
        "# %%\nimport matplotlib.pyplot as plt\nplt.figure(num='dot').suptitle('A dot')\n"
    )
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    executor.write(script)
    code = "```python\nprint('one')\nprint('| a |')\nprint('|---|')\n```"
    page = (tmp_path / "small.md").read_text()
    assert page.startswith(f"# Title\n\ntext\n\n{code}\n\n```text\none\n```\n\n| a |\n|---|\n\n```python\n")
    assert page.endswith("```\n\n![A dot](small/dot.png)\n")
    assert (tmp_path / "small" / "dot.png").is_file()


def test_a_run_that_fails_leaves_the_page_and_its_pictures_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = module_of(DOCS / "execute.py")
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    script, page, picture = (tmp_path / name for name in ("a.py", "a.md", "a/dot.png"))
    picture.parent.mkdir()
    picture.write_bytes(b"old")
    page.write_text("old")
    script.write_text("# %%\nimport matplotlib.pyplot as plt\nplt.figure(num='dot')\n\n# %%\n1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        executor.write(script)
    executor.plt.close("all")
    assert page.read_text() == "old" and picture.read_bytes() == b"old"
