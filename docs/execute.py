"""A percent script, executed: SCRIPT.py -> SCRIPT.md with what it printed, and its pictures in SCRIPT/*.png.

    # %% [markdown]      the comment lines that follow are text
    # %%                 what follows is code: shown, run, and followed by what it printed and drew

    python docs/execute.py docs/from_scratch.py

Output whose lines all begin with `|` is a table, other output is shown as it is. A matplotlib figure that a
cell leaves open becomes a picture: its label is the file's name, its suptitle the text in its place.
"""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARK = re.compile(r"^# %%(?P<text> \[markdown\])?$")


class Cell(NamedTuple):
    """One cell: whether it is text, its source, and the number of its first line."""

    is_text: bool
    source: str
    line: int


def cells(script: str) -> Iterator[Cell]:
    """The cells of a percent script. What stands before the first mark is no cell: it must be empty."""
    lines = script.splitlines()
    marks = [(n, found) for n, line in enumerate(lines) if (found := MARK.match(line))]
    assert marks and not "".join(lines[: marks[0][0]]).strip(), "a percent script begins with a mark"
    ends = [n for n, _ in marks[1:]] + [len(lines)]
    for (start, mark), end in zip(marks, ends, strict=True):
        body = lines[start + 1 : end]
        if mark["text"]:
            assert all(not line or line.startswith("#") for line in body), (
                f"line {start + 1}: text and code in one cell"
            )
            body = [line.removeprefix("#").removeprefix(" ") for line in body]
        yield Cell(bool(mark["text"]), "\n".join(body).strip("\n"), start + 1)


def shown(printed: str) -> Iterator[str]:
    """Standard output as Markdown: tables as tables, all else as it was printed."""
    for is_table, block in blocks(printed.strip("\n").splitlines()):
        yield block if is_table else f"```text\n{block}\n```"


def blocks(lines: list[str]) -> Iterator[tuple[bool, str]]:
    """Runs of lines that are, or are not, a table's."""
    start = 0
    for n in range(1, len(lines) + 1):
        if n == len(lines) or lines[n].startswith("|") != lines[start].startswith("|"):
            block = "\n".join(line.rstrip() for line in lines[start:n]).strip("\n")
            if block:
                yield lines[start].startswith("|"), block
            start = n


def drawn(folder: str) -> Iterator[tuple[str, str, bytes]]:
    """The open figures, which are closed: a link to each, its file's name, its PNG."""
    for number in plt.get_fignums():
        figure = plt.figure(number)
        name, png = f"{figure.get_label()}.png", io.BytesIO()
        figure.savefig(png, metadata={"Software": None})
        plt.close(figure)
        yield f"![{figure.get_suptitle()}]({folder}/{name})", name, png.getvalue()


def execute(script: Path) -> tuple[str, dict[str, bytes]]:
    """Run the script: its page, and its pictures by name. What a cell raises goes to the caller."""
    sys.modules["__main__"] = module = ModuleType("__main__")  # as if it were run: classes find their module
    module.__file__ = str(script)
    parts, pictures = [], {}
    for cell in cells(script.read_text()):
        if cell.is_text:
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        printed = io.StringIO()
        code = compile(
            "\n" * cell.line + cell.source, str(script), "exec"
        )  # tracebacks name the script's lines
        with contextlib.redirect_stdout(printed):
            exec(code, module.__dict__)
        parts += shown(printed.getvalue())
        for link, name, png in drawn(script.stem):
            parts.append(link)
            pictures[name] = png
    return "\n\n".join(parts) + "\n", pictures


def write(script: Path) -> None:
    """Run the script, then write its page and its pictures; one that fails leaves what was there."""
    page, pictures = execute(script)
    folder = script.with_suffix("")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for name, png in pictures.items():
        (folder / name).write_bytes(png)
    script.with_suffix(".md").write_text(page)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
