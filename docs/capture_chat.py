"""Hold conversations in a real terminal, and keep what stands on it for docs/chat.md.

    python docs/capture_chat.py              all scenes, 80 and 200 columns wide
    python docs/capture_chat.py tools        some of them

Each scene is typed into `pureqwen chat` in a tmux of its own. What stands there when the prompt is back is
kept as docs/captured/chat-SCENE-WIDTH.svg, with its colours, and .txt; then docs/chat.md is written again. It
needs tmux, and stops with one line where something does not come as it should.
"""

import argparse
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
CAPTURED = ROOT / "docs" / "captured"
WIDTHS = (80, 200)
HEIGHT = 50
PATIENCE = 300  # seconds for one answer
SOCKET = "pureqwen-capture"  # a tmux server of our own: nobody's sessions are touched

PACKAGE = (sys.executable, "-m", "pureqwen")
SCRIPTED = (sys.executable, str(ROOT / "tests" / "cli" / "fake_qwen.py"))

PROMPT = re.compile(r"(?:[\w ./]+)?>")  # as the last line: "> ", or "get_weather> "
QUESTION = "What is 58 * 7?"

# What is typed. A line after CALLED is typed only where the model called a tool; MOST is the token that
# surprised it most.
CALLED, MOST = "(called) ", "/tokens MOST"
SCENES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "help": (PACKAGE, ("/help",)),
    "thinking": (PACKAGE, (QUESTION, "/reset", "/budget 12", QUESTION, "/budget off")),
    "tools": (
        PACKAGE,
        (
            "/tool docs/captured/chat-tools.json",
            "What is the weather in Oslo?",
            CALLED + '{"temperature": 12, "sky": "rainy"}',
            "/reset",
            "What time is it in Rome?",
            CALLED + """!TZ=Europe/Rome date +'{"time": "%H:%M"}'""",
            "/tool off",
        ),
    ),
    "tokens": (PACKAGE, ("/budget 12", QUESTION, "/tokens", MOST)),
    "markdown": (SCRIPTED, ("page",)),
}


class Terminal:
    """A chat in tmux. Raises SystemExit with one line where it ends or hangs."""

    def __init__(self, command: tuple[str, ...], width: int, home: str) -> None:
        self.tmux("kill-server", check=False)
        plain = ["env", "-u", "NO_COLOR", "-u", "COLUMNS", "-u", "LINES", "TERM=screen-256color"]
        quiet = ["OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1", f"XDG_STATE_HOME={home}"]
        size = ["-x", str(width), "-y", str(HEIGHT)]
        self.tmux("new-session", "-d", "-c", str(ROOT), *size, *plain, *quiet, *command, "chat")
        self.wait("the chat to begin")

    def tmux(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", "-L", SOCKET, "-f", "/dev/null", *arguments], capture_output=True, text=True
        )
        if check and done.returncode:
            raise SystemExit(f"the chat in tmux has ended: {done.stderr.strip()}")
        return done.stdout

    def screen(self, *options: str) -> list[str]:
        """The lines, from the top of what has scrolled away; those below the last one with text left out."""
        lines = self.tmux("capture-pane", "-p", "-S", "-", *options).rstrip("\n").split("\n")
        return [line.rstrip() for line in lines]

    def wait(self, what: str, typed: str | None = None) -> str:
        """Until the last line is a prompt and stays one, or ends with what was typed; returns that line."""
        end, before = time.monotonic() + PATIENCE, [""]
        while time.monotonic() < end:
            now = self.screen()
            if typed is not None and "".join(now).replace(" ", "").endswith(typed.replace(" ", "")):
                return now[-1]
            if typed is None and now == before and PROMPT.fullmatch(now[-1]):
                return now[-1]
            before = now
            time.sleep(0.3)
        raise SystemExit(f"waited {PATIENCE} s for {what}; the last line is: {before[-1]!r}")

    def type(self, line: str) -> None:
        """Type a line, send it, and wait for the prompt that follows."""
        self.tmux("send-keys", "-l", "--", line)
        self.wait(f"{line!r} to stand there", typed=line)
        self.tmux("send-keys", "Enter")
        time.sleep(0.5)
        self.wait(f"the answer to {line!r}")


@contextmanager
def terminal(command: tuple[str, ...], width: int) -> Iterator[Terminal]:
    with tempfile.TemporaryDirectory() as home:
        place = None
        try:
            place = Terminal(command, width, home)
            yield place
        finally:
            subprocess.run(["tmux", "-L", SOCKET, "kill-server"], capture_output=True)


def play(name: str, width: int) -> str:
    """Hold the conversation of a scene; returns what stands there, with its escape sequences."""
    command, lines = SCENES[name]
    with terminal(command, width) as place:
        for line in lines:
            waits = place.screen()[-1] != ">"  # a tool that was called
            if line.startswith(CALLED) != waits:
                said = "called no tool" if line.startswith(CALLED) else "called a tool once more"
                print(f"chat-{name}-{width}: the model {said}", file=sys.stderr)
                if not waits:
                    continue
                place.tmux("send-keys", "C-c")
                place.wait("the chat to go on")
            if line == MOST:
                found = re.findall(r"token (\d+) has the most", "\n".join(place.screen()))
                line = f"/tokens {found[-1] if found else 1}"
            place.type(line.removeprefix(CALLED))
        return "\n".join(place.screen("-e", "-N")[: len(place.screen()) - 1])


def keep(name: str, width: int, shown: str) -> None:
    """Write what stood there as a picture and as text."""
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    text = Text.from_ansi(shown)
    console.print(text, soft_wrap=True)
    path = CAPTURED / f"chat-{name}-{width}"
    picture = console.export_svg(title=f"pureqwen chat, {width} columns", unique_id=path.name)
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # no font from a network
    picture = picture.replace("Fira Code, monospace", "monospace")
    path.with_suffix(".svg").write_text(picture)
    path.with_suffix(".txt").write_text("\n".join(line.rstrip() for line in text.plain.splitlines()) + "\n")
    print(f"wrote {path.relative_to(ROOT)}.svg and .txt", flush=True)


def write_page() -> None:
    """Fill docs/chat.md with what was captured, as `make docs` does."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    page = ROOT / "docs" / "chat.md"
    page.write_text(generator.filled(page.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Capture the chat in a real terminal for docs/chat.md.")
    parser.add_argument(
        "scenes", nargs="*", metavar="SCENE", help=f"{', '.join(SCENES)}; all where none is named"
    )
    scenes = parser.parse_args().scenes or list(SCENES)
    if unknown := [name for name in scenes if name not in SCENES]:
        raise SystemExit(f"there is no scene {unknown[0]}: there are {', '.join(SCENES)}")
    if shutil.which("tmux") is None:
        raise SystemExit(
            "tmux is missing: it is the terminal that is captured; install it (apt install tmux)"
        )
    for name in scenes:
        for width in WIDTHS:
            keep(name, width, play(name, width))
    write_page()


if __name__ == "__main__":
    main()
