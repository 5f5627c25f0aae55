"""docs/life-of-a-request.md names functions; each of them is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "pureqwen"
PAGE = ROOT / "docs" / "life-of-a-request.md"
NAME = re.compile(r"`([\w/]+\.py):([\w.]+)`")
DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@cache
def defined(path: Path) -> frozenset[str]:
    """Every function and class of a file, and every method as Class.method."""

    def names(body: list[ast.stmt], prefix: str) -> list[str]:
        found = []
        for node in body:
            if isinstance(node, DEFINITION):
                found.append(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    found += names(node.body, f"{prefix}{node.name}.")
        return found

    return frozenset(names(ast.parse(path.read_text()).body, ""))


def missing(text: str) -> list[str]:
    """The names in a text that stand for nothing."""
    found = NAME.findall(text)
    return [
        f"{path}:{name}"
        for path, name in found
        if not (PACKAGE / path).is_file() or name not in defined(PACKAGE / path)
    ]


def test_every_name_on_the_page_is_in_the_source() -> None:
    assert missing(PAGE.read_text()) == []


def test_the_page_names_a_function_at_every_step_from_the_socket_to_the_socket() -> None:
    text = PAGE.read_text()
    names = [name for _, name in NAME.findall(text)]
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert len(NAME.findall(part)) >= 3, part.splitlines()[0]
    way = ["listen", "Guard.__call__", "Service._answer", "make_rows", "Intake.read", "Session.submit"]
    way += ["Engine.submit", "Inbox.add", "Engine._step", "Scheduler.plan", "Runner.__call__"]
    way += ["PagedCache.begin", "Qwen3.forward", "PagedAttend.__call__", "Scheduler.commit", "Row.accept"]
    way += ["Sampler.choose", "Reply.push", "Session._listen", "Session.take", "EventStream._send"]
    places = [names.index(name) for name in way]
    assert places == sorted(places), "the page tells them in the order in which they are called"


@pytest.mark.parametrize(
    "wrong",
    [
        "`serve/engine.py:Engine.fly`",
        "`serve/engine.py:submit`",
        "`serve/nowhere.py:Engine`",
        "`generate/row.py:Row.accept.twice`",
    ],
)
def test_a_name_that_is_not_there_is_seen(wrong: str) -> None:
    assert missing(f"as in {wrong}, and `generate/row.py:Row.accept`") == [wrong.strip("`")]


def test_nothing_that_looks_like_a_name_escapes_the_check() -> None:
    """A name that is written otherwise, with blanks or brackets, would never be looked up."""
    for quoted in re.findall(r"`([^`\n]+)`", PAGE.read_text()):
        if ".py" in quoted:
            assert NAME.fullmatch(f"`{quoted}`"), quoted
