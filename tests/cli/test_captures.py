"""docs/chat.md shows what stood on a real terminal, and the command that captured it says what it lacks."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "capture_chat.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("capture_chat", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_scene_was_captured_at_both_widths_and_fits_them(script: ModuleType) -> None:
    for name, (_, lines) in script.SCENES.items():
        for width in script.WIDTHS:
            text = (ROOT / "docs" / "captured" / f"chat-{name}-{width}.txt").read_text()
            assert max(map(len, text.splitlines())) <= width
            assert f"> {lines[0]}\n" in text
            picture = (ROOT / "docs" / "captured" / f"chat-{name}-{width}.svg").read_text()
            assert "@font-face" not in picture and not re.search(r"(url\(|href=)[\"']?http", picture)


def test_the_page_shows_every_scene(script: ModuleType) -> None:
    page = (ROOT / "docs" / "chat.md").read_text()
    for name in script.SCENES:
        assert f"(captured/chat-{name}-80.svg)" in page
        assert f"<!-- generated: output chat-{name}-80 -->" in page


def test_the_captured_help_lists_the_commands_that_there_are() -> None:
    from pureqwen.cli.commands import COMMANDS

    text = (ROOT / "docs" / "captured" / "chat-help-80.txt").read_text()
    assert re.findall(r"^(/\w+)", text, re.MULTILINE) == [command.name for command in COMMANDS]
    assert all(command.summary in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "tmux is missing: "), (["nothing"], "there is no scene nothing: there are help, ")],
)
def test_what_is_missing_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(said) and ran.stderr.count("\n") == 1


@pytest.mark.parametrize("line", [">", "get_weather>", "weather 1/2>"])
def test_a_prompt_is_known_for_one(line: str, script: ModuleType) -> None:
    assert script.PROMPT.fullmatch(line)
    assert not script.PROMPT.fullmatch(line + " x")
