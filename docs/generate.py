"""Fill the generated blocks of README.md and docs/*.md, so that no number, tree or --help is typed by hand.

A block is `<!-- generated: NAME [ARGUMENT] -->`, what this script writes, and `<!-- end -->`. The pages in
EXECUTED are whole programs, run by execute.py; their last line says what they were run on.

    python docs/generate.py                      (make docs)     write the blocks again, and run the programs
                                                                 that were changed since
    python docs/generate.py --execute            (by hand)       run the programs in any case
    python docs/generate.py --check              (make check)    say which pages are stale; exit code 1
    python docs/generate.py --capture demo test  (make capture)  run `make demo` and `make test`, keep what
                                                                 they print in docs/captured/, then write

--check runs no model: what the two commands printed is read from docs/captured/, and whether a program was
changed is seen from a hash of it, of its drawings and of the pocket. What it measured is not compared.
"""

import argparse
import ast
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pureqwen"
CAPTURED = ROOT / "docs" / "captured"
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- generated: (\w+)(?: ([\w.-]+))? -->\n).*?(<!-- end -->)", re.DOTALL)

# The README's two commands, and how many of the last lines of each it shows.
LAST_LINES = {"demo": 40, "test": 1}

# The pocket's evaluation is drawn; the picture carries a hash of the figures that it shows.
POCKET, ACCURACY = RESULTS / "pocket.json", ROOT / "docs" / "pocket" / "accuracy.png"
POCKET_MOE = RESULTS / "pocket-moe.json"

# So is the comparison with other programs, whose tables have a page of their own.
PEERS, SHARES = RESULTS / "peers.json", ROOT / "docs" / "performance" / "shares.png"

# Pages that are programs: docs/NAME.py -> docs/NAME.md and pictures in docs/NAME/.
EXECUTED = (ROOT / "docs" / "from_scratch.py",)
RUNS_WITH = (ROOT / "docs" / "pictures.py", ROOT / "docs" / "execute.py")
PICTURE = re.compile(r"^!\[[^]]*\]\(([^)]+)\)$", re.MULTILINE)

# What can't say for itself what it is: files that are not Python, and folders of them.
NOTES = {
    "ops.h": "native code: what it rests on, with a list of its operations",
    "amx.h": "Intel's units for matrices: products of many rows",
    "products.cpp": "its products of a few rows and of many: float32, bfloat16, 8 and 4 bits",
    "blocks.cpp": "attention over pages, what stands between products, and whole blocks in one call",
    "py.typed": "type checkers may rely on the annotations",
    "pocket": "the model that ships inside the package: a checkpoint like any other",
    "README.md": "its model card: what it can do, and how well",
    "config.json": "its shape",
    "generation_config.json": "greedy, so that its answers repeat",
    "model.safetensors": "its weights",
    "model-00001-of-00002.safetensors": "its weights, in two files as large checkpoints are",
    "model-00002-of-00002.safetensors": "the rest of them",
    "model.safetensors.index.json": "which of them lies where",
    "tokenizer.json": "its vocabulary and merges",
    "tokenizer_config.json": "which of its tokens end a turn",
    "chat_template.jinja": "its chat format, in our own words",
}


def first_line(path: Path) -> str:
    """The first line of a module's docstring; a folder speaks through its __init__.py."""
    module = path / "__init__.py" if path.is_dir() else path
    if module.suffix == ".py" and module.exists():
        text = ast.get_docstring(ast.parse(module.read_text())) or ""
        return text.split("\n")[0].strip().rstrip(".:")
    return NOTES.get(path.name, "")


def entries(folder: Path, depth: int = 0) -> Iterator[tuple[str, str]]:
    """(indented name, note) of what lies in a folder: files first at the top, then folders, each sorted."""
    inside = [p for p in folder.iterdir() if not p.name.startswith((".", "__pycache__"))]
    for path in sorted(inside, key=lambda p: (p.is_dir(), p.name)):
        if path.name == "__init__.py" and depth:
            continue  # its docstring stands beside the folder's name
        yield "  " * depth + path.name + "/" * path.is_dir(), first_line(path)
        if path.is_dir():
            yield from entries(path, depth + 1)


def tree(_: str) -> str:
    rows = [("src/pureqwen/", ""), *(("  " + name, note) for name, note in entries(PACKAGE))]
    width = max(len(name) for name, _ in rows) + 2
    return fenced("\n".join(f"{name:<{width}}{note}".rstrip() for name, note in rows))


def models(_: str) -> str:
    from pureqwen.config.presets import supported_models_table

    return supported_models_table().strip()


def output(name: str) -> str:
    """What a command printed when `make capture` last ran it."""
    path = CAPTURED / f"{name}.txt"
    return fenced(path.read_text().rstrip() if path.exists() else "(make capture writes this)")


def usage(verb: str) -> str:
    """`pureqwen VERB --help`, 100 columns wide, no colour; the verb `pureqwen` is the program itself."""
    words = [] if verb == "pureqwen" else [verb]
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / "pureqwen"), *words, "--help"]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True, check=True)
    return fenced("\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()))


def benchmarks(_: str) -> str:
    """Every benchmarks/results/NAME.json as a table: the keys of its rows are the columns."""
    paths = [path for path in sorted(RESULTS.glob("*.json")) if not path.stem.startswith(PEERS.stem)]
    return "\n\n".join(f"## {path.stem}\n\n{table(path)}" for path in paths)


def table(path: Path) -> str:
    result: dict[str, Any] = json.loads(path.read_text())
    rows: list[dict[str, Any]] = result["rows"]
    lines = grid(rows)
    if "bars" in result:
        lines += ["", "What was promised:", "", *grid(result["bars"])]
    if result.get("missing"):
        lines += ["", "Left out: " + "; ".join(f"{name} ({why})" for name, why in result["missing"].items())]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join([*lines, "", f"`{result['command']}` on {result['device']}; {versions}."])


def grid(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of a table: the keys of the first row are the columns."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ("" if row.get(column) is None else str(row[column]) for column in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def pocket(_: str) -> str:
    """How well the model inside the package answers: a table, and the picture beside it."""
    card = from_recipes("card")
    pocket, sibling = (json.loads(path.read_text()) for path in (POCKET, POCKET_MOE))
    return str(card.readme_table(pocket, ACCURACY.relative_to(ROOT).as_posix(), sibling=sibling))


def is_shown() -> bool:
    """Whether the README has the pocket's table, and with it the picture."""
    return "<!-- generated: pocket -->" in (ROOT / "README.md").read_text()


def from_recipes(name: str) -> Any:
    """A module of recipes/pocket."""
    return beside(f"recipes.pocket.{name}")


def beside(name: str) -> Any:
    """A module that is beside the package and not in it."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(name)


def pictures() -> Iterator[tuple[Path, dict[str, Any], Any]]:
    """What is drawn from a result: the picture, the result, and the module that draws it."""
    if is_shown():
        yield ACCURACY, json.loads(POCKET.read_text()), from_recipes("plot")
    if PEERS.exists():
        yield SHARES, json.loads(PEERS.read_text()), beside("benchmarks.peers.plot")


def peers(name: str) -> str:
    """Of the comparison with other programs: all rows (table), bars, the README's table (short), picture.

    bars-avx2 are those of results/peers-avx2.json, of another machine; bars-amx of yet another.
    """
    name, _, machine = name.partition("-")
    path = PEERS.with_stem(f"{PEERS.stem}-{machine}") if machine else PEERS
    if not path.exists():
        return "(make bench writes this)"
    if name == "picture":
        return f"![Every speed as a part of what the machine allows]({SHARES.relative_to(ROOT / 'docs')})"
    return str(getattr(beside("benchmarks.peers.table"), name)(json.loads(path.read_text())))


BLOCKS: dict[str, Callable[[str], str]] = {
    "tree": tree,
    "models": models,
    "output": output,
    "usage": usage,
    "benchmarks": benchmarks,
    "pocket": pocket,
    "peers": peers,
}


def fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def filled(text: str) -> str:
    """A page with all its blocks written again."""
    return BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]](found[3] or '')}\n{found[4]}", text)


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def stamp(script: Path) -> str:
    """The last line of a program's page: a hash of what it was run on, the pocket's card excepted."""
    data = [path for path in (PACKAGE / "pocket").iterdir() if path.suffix not in (".py", ".md")]
    found = hashlib.sha256()
    for path in (script, *RUNS_WITH, *sorted(path for path in data if path.is_file())):
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return f"<!-- executed: {found.hexdigest()} -->\n"


def is_fresh(script: Path) -> bool:
    """Whether the page of a program was written by the program as it is now, and its pictures are there."""
    page = script.with_suffix(".md")
    text = page.read_text() if page.exists() else ""
    return text.endswith(f"\n{stamp(script)}") and all(
        (page.parent / picture).is_file() for picture in PICTURE.findall(text)
    )


def execute(script: Path) -> None:
    """Run a program in a process of its own, on one thread, and stamp its page."""
    print(f"running {script.relative_to(ROOT)} ...", flush=True)
    command = [sys.executable, str(ROOT / "docs" / "execute.py"), str(script)]
    mark = stamp(script)  # before it runs: who edits it meanwhile has a stale page
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    page = script.with_suffix(".md")
    page.write_text(f"{page.read_text()}\n{mark}")
    print(f"wrote {page.relative_to(ROOT)}")


def stale() -> list[str]:
    """Pages that are not what this script would write."""
    wrong = [page for page in pages() if filled(page.read_text()) != page.read_text()]
    wrong += [script.with_suffix(".md") for script in EXECUTED if not is_fresh(script)]
    wrong += [path for path, result, module in pictures() if not module.is_fresh(result, path)]
    return [str(page.relative_to(ROOT)) for page in wrong]


def capture(name: str) -> None:
    """Run one of the README's two commands for real and keep what a reader would see."""
    done = subprocess.run(["make", "-s", name], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nmake {name} failed; nothing was captured")
    lines = done.stdout.strip("\n").splitlines()
    CAPTURED.mkdir(exist_ok=True)
    (CAPTURED / f"{name}.txt").write_text("\n".join(lines[-LAST_LINES[name] :]) + "\n")


def write(*, run_all: bool = False) -> None:
    for path, result, module in pictures():
        if not module.is_fresh(result, path):
            module.plot(result, path)
            print(f"wrote {path.relative_to(ROOT)}")
    for script in EXECUTED:
        if run_all or not is_fresh(script):
            execute(script)
    for page in pages():
        text = filled(page.read_text())
        if text != page.read_text():
            page.write_text(text)
            print(f"wrote {page.relative_to(ROOT)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Fill the generated blocks of README.md and docs/*.md.")
    parser.add_argument("--check", action="store_true", help="only say which pages are stale")
    parser.add_argument("--capture", nargs="*", choices=LAST_LINES, help="run these commands again first")
    parser.add_argument("--execute", action="store_true", help="run the pages that are programs in any case")
    options = parser.parse_args()
    if options.check:
        wrong = stale()
        print(
            f"Stale: {', '.join(wrong)}. Run: make docs" if wrong else "The generated parts are up to date."
        )
        return 1 if wrong else 0
    for name in options.capture or []:
        write()  # `make test` wants fresh pages
        capture(name)
    write(run_all=options.execute)
    return 0


if __name__ == "__main__":
    sys.exit(main())
