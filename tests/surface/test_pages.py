"""What the pages say is true: generated blocks are fresh, the tree is real, paths exist, versions agree."""

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import pureqwen


@pytest.fixture(scope="module")
def generator(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", root / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(root: Path) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout: an sdist has no list of its files")
    return [root / name for name in done.stdout.split("\0") if name and (root / name).is_file()]


def test_the_generated_parts_of_the_pages_are_fresh(generator: ModuleType) -> None:
    assert generator.stale() == [], "run: make docs"


def test_every_page_with_a_table_of_numbers_or_a_help_text_has_it_generated(root: Path) -> None:
    """Not the notes of docs/decisions: what one measured on its day does not go stale."""
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    for page in (page for page in pages if page.parent.name != "decisions"):
        text = re.sub(r"<!-- generated:.*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)
        typed = re.findall(
            r"^.*\b\d+(?:\.\d+)? ?(?:tokens/s|tok/s|GB/s|ms\b).*$|^Usage: .*$", text, re.MULTILINE
        )
        assert not typed, f"{page.name}: {typed}"


def paths_in(block: str) -> Iterator[str]:
    """The indented tree of the README as paths."""
    stack: list[str] = []
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[:depth], name.rstrip("/")]
        if not name.endswith("/"):
            yield "/".join(stack)


def test_the_readme_s_tree_is_the_real_one(root: Path) -> None:
    found = re.search(
        r"<!-- generated: tree -->\n```text\n(.*?)\n```", (root / "README.md").read_text(), re.DOTALL
    )
    assert found is not None
    entrances = re.compile(r"src/pureqwen/.+/__init__\.py")  # a folder's line stands for it
    real = {path.relative_to(root).as_posix() for path in committed(root)}
    real = {path for path in real if path.startswith("src/pureqwen/") and not entrances.fullmatch(path)}
    assert set(paths_in(found[1])) == real


def test_every_line_of_the_tree_says_what_the_file_is(root: Path, generator: ModuleType) -> None:
    silent = [
        name
        for name, note in generator.entries(root / "src" / "pureqwen")
        if name.endswith(".py") and not note
    ]
    assert not silent


def test_the_changelog_s_top_version_is_the_package_s(root: Path) -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == pureqwen.__version__


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_path_that_a_page_names_exists(page: str, root: Path) -> None:
    text = (root / page).read_text()
    links = re.findall(r"\]\((?!http|#)([^)#]+)", text)
    code = re.findall(r"`((?:src|tests|docs|recipes|benchmarks|\.ci)/[\w./-]*)`", text)
    rooms = re.findall(
        r"`((?:config|chat|model|cache|rewrite|weights|generate|train|evaluate|explain|pocket|cli)/[\w./-]*|\w+\.py)`",
        text,
    )
    missing = [path for path in {*links, *code} if not (root / path).exists()]
    missing += [path for path in set(rooms) if not (root / "src" / "pureqwen" / path).exists()]
    assert not missing


def test_contributing_says_which_file_to_open(root: Path) -> None:
    text = (root / "CONTRIBUTING.md").read_text()
    assert "| to change | open |" in text
    assert text.count("\n| ") >= 9


def test_no_committed_file_names_this_machine_or_a_registry(root: Path) -> None:
    index = r"https?://[^\s)]*(?:/simple\b|/whl\b|registry)"
    pattern = re.compile(rf"{index}|(?:/root|/home/\w+)/|--(?:extra-)?index-url[ =](?!ADDRESS)\S")
    named = []
    for path in committed(root):
        if path == Path(__file__) or path.suffix in (".safetensors", ".png"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if found := pattern.search(line):
                named.append(f"{path.relative_to(root)}:{number}: {found[0]}")
    assert not named


def test_every_dependency_has_a_pin(root: Path) -> None:
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    name = re.compile(r"^[\w.-]+")
    pins = {
        found[0].lower().replace("_", "-")
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line and (found := name.match(line))
    }
    missing = [text for text in wanted if (found := name.match(text)) and found[0].lower() not in pins]
    assert not missing
    assert "torch==2.13.0\n" in (root / "constraints.txt").read_text()


def test_the_readme_s_python_runs_and_answers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert "29842" in capsys.readouterr().out
