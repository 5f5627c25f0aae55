"""`pureqwen chat` as a person meets it: in a terminal of its own, with keys and Ctrl-C."""

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FAKE = Path(__file__).parent / "fake_qwen.py"
ENTER, ALT_ENTER, CTRL_C, CTRL_D, UP = "\r", "\x1b\r", "\x03", "\x04", "\x1b[A"
PASTE = "\x1b[200~{}\x1b[201~"
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>78])|\r")


class Person:
    """Types into a terminal, and reads what it shows (escape sequences taken out)."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        plain = {
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "XDG_STATE_HOME": str(home),
            "HOME": str(home),
        }
        kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self.process = subprocess.Popen(
            [sys.executable, str(FAKE), "chat"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**kept, **plain, **environment},
            start_new_session=True,
        )
        os.close(slave)
        self.raw, self.seen = "", 0

    @property
    def text(self) -> str:
        """What came since the last thing that was waited for."""
        return ESCAPES.sub("", self.raw)[self.seen :]

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def enter(self, keys: str) -> None:
        """Wait for the prompt (before it the keys would be the terminal's own), type, and send."""
        self.see(">")
        self.type(keys + ENTER)

    def see(self, wanted: str) -> str:
        """Wait until it is shown; returns all that came up to it."""
        end = time.monotonic() + 60
        while wanted not in self.text:
            assert time.monotonic() < end, f"{wanted!r} never came; there was {self.text!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.raw += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    assert wanted in self.text, f"it ended without {wanted!r}: {self.text!r}"
        shown = self.text[: self.text.index(wanted) + len(wanted)]
        self.seen += len(shown)
        return shown

    def leave(self) -> int:
        code = self.process.wait(60)
        os.close(self.master)
        return code


@pytest.fixture
def person(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Person]:
    """Somebody at a terminal; parametrized with the environment."""
    someone = Person(tmp_path, **getattr(request, "param", {}))
    yield someone
    if someone.process.poll() is None:
        someone.process.kill()
        someone.process.wait()


def test_a_conversation_with_keys(person: Person, tmp_path: Path) -> None:
    person.see("/help lists the commands")
    person.enter("hi")
    assert "Echo: hi" in person.see("first after 0.25 s")

    person.enter("one" + ALT_ENTER + "two")  # a newline by hand
    assert "Echo: one\ntwo" in person.see("first after")

    person.enter(PASTE.format("a\rb\rc"))  # a paste with newlines is one message
    assert "Echo: a\nb\nc" in person.see("first after")

    person.enter("slow")  # Ctrl-C stops the answer and keeps the chat
    person.see("writing")  # the paragraph is drawn when it is complete, or stopped
    person.type(CTRL_C)
    assert "word1 " in person.see("stopped; what there is stays in")  # the remark may wrap

    person.enter("tool")  # a tool is answered by hand, or by a command
    person.see('calls weather {"city": "Oslo"}')
    person.see("weather>")
    person.type("!nosuchcommand 2>&1" + ENTER)
    person.see("error: the command ended with 127: nosuchcommand")
    person.see("weather>")
    person.type("!cat" + ENTER)
    person.see('Echo: {"city": "Oslo"}')
    person.see("first after")
    person.enter("tool")
    person.see("weather>")
    person.type(CTRL_C)
    person.see("the call stays without an answer")

    person.enter("half a line" + CTRL_C + "boom")  # Ctrl-C empties a line
    person.see("error: the prompt has 999 tokens")
    person.see("> boom")  # the message stands in the line again
    person.type(CTRL_C)
    person.type(CTRL_C)  # and on an empty one says how to leave
    person.see("/exit or Ctrl-D leaves the chat")

    person.see(">")
    person.type("/hel\t")  # Tab completes
    person.see("p")
    person.type(ENTER)
    person.see("Enter sends")
    person.enter(UP)  # the history
    person.see("Enter sends")

    person.see(">")
    person.type(CTRL_D)
    assert person.leave() == 0
    history = tmp_path / "pureqwen" / "chat_history"
    assert "+one\n+two\n" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("person", [{"TERM": "dumb"}], indirect=True)
def test_a_dumb_terminal_gets_plain_lines(person: Person, tmp_path: Path) -> None:
    person.see("> ")
    person.type("think\n")
    seen = person.see("first after")
    assert "<think>\nLet me see.\n</think>\n\nEcho: think" in seen.replace("\r", "")
    person.type("slow\n")
    person.see("word1 ")
    person.type(CTRL_C)
    person.see("stopped; what there is stays in the chat")
    person.see("> ")
    person.type(CTRL_C)
    person.see("/exit or Ctrl-D leaves the chat")
    person.type(CTRL_D)
    raw = person.raw
    assert person.leave() == 0
    assert "\x1b" not in raw
    assert not (tmp_path / "pureqwen").exists()
