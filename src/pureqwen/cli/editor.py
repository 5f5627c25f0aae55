"""Where the lines of a chat come from: an editor with history on a terminal, plain lines everywhere else.

In the editor, Enter sends; Alt-Enter (or Escape, then Enter) begins a new line, and a paste keeps its
lines. Ctrl-C empties the line, Ctrl-D on an empty one leaves. The history is kept in the user's state
directory, readable by the user alone; where it can't be written, it lasts as long as the chat.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pureqwen.cli.prompt import decoded
from pureqwen.cli.terminal import Screen, interactive

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History

PROMPT = "> "


class Reader(Protocol):
    """Gives the next message. EOFError at the end, KeyboardInterrupt for Ctrl-C on an empty line."""

    def read(self, draft: str, prompt: str = PROMPT) -> str:
        """`draft` is what should stand in the line to begin with, `prompt` what stands before it."""


class PlainReader:
    """Lines of standard input: a pipe's, a file's, or a simple terminal's."""

    def __init__(self, screen: Screen | None) -> None:
        """`screen` is the one that is prompted on; None where nobody waits."""
        self.screen = screen

    def read(self, draft: str, prompt: str = PROMPT) -> str:
        if self.screen is not None:
            self.screen.write(prompt)
        try:
            line = sys.stdin.buffer.readline()
        except KeyboardInterrupt:
            if self.screen is not None:
                self.screen.line()
            raise
        if not line:
            if self.screen is not None:
                self.screen.line()
            raise EOFError
        return decoded(line, "the line")


class Editor:
    """A line editor (prompt-toolkit) with history, completion of commands and multi-line input."""

    def __init__(self, commands: list[str], **terminal: Any) -> None:
        """`commands` are completed with Tab; `terminal` is prompt-toolkit's input and output, for tests."""
        self.session: PromptSession[str] = make_session(commands, **terminal)

    def read(self, draft: str, prompt: str = PROMPT) -> str:
        return self.session.prompt(prompt, default=draft)


def make_reader(commands: list[str], screen: Screen, notes: Screen) -> Reader:
    """The reader that fits what standard input and output are."""
    if interactive():
        return Editor(commands)
    return PlainReader((screen if screen.terminal else notes) if sys.stdin.isatty() else None)


def make_session(commands: list[str], **terminal: Any) -> "PromptSession[str]":
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("escape", "c-j")  # the same, typed while an answer was still coming
    def new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def clear(event: Any) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    class Commands(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
            typed = document.text_before_cursor
            for name in commands:
                if typed.startswith("/") and name.startswith(typed):
                    yield Completion(name, start_position=-len(typed))

    return PromptSession(
        multiline=True,
        history=make_history(),
        key_bindings=keys,
        completer=Commands(),
        complete_while_typing=False,
        prompt_continuation="  ",
        **terminal,
    )


def make_history() -> "History":
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class KeptHistory(FileHistory):
        def store_string(self, string: str) -> None:
            with suppress(OSError, UnicodeError):  # a full disk must not end a chat
                super().store_string(string)

    path = state_folder() / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError:
        return InMemoryHistory()
    return KeptHistory(str(path))


def state_folder() -> Path:
    """Where programs keep what is neither configuration nor cache, as each system has it."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "pureqwen"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pureqwen"
    named = Path(
        os.environ.get("XDG_STATE_HOME", "")
    )  # a relative one is to be ignored, says the specification
    return (named if named.is_absolute() else Path.home() / ".local" / "state") / "pureqwen"
