"""Where the prompt of `pureqwen generate` comes from: the argument, a file, standard input.

    pureqwen generate "Why?"                      the argument
    pureqwen generate --file question.txt         the file; --file - is standard input
    echo "Why?" | pureqwen generate               standard input
    git diff | pureqwen generate "Explain this."  both: what was piped or the file first, then the argument

Line breaks at the end of a file or of standard input are removed, as the shell's $(...) does. With an
argument, standard input is read only when something is piped into it; a pipe that says nothing for two
seconds (a cron job's, ssh's) is left alone with a notice. `--file -` waits.
"""

import os
import select
import stat
import sys
from pathlib import Path

from pureqwen.cli.errors import notice

PATIENCE = 2.0  # seconds
STANDARD_INPUT = Path("-")


def read_prompt(argument: str | None, file: Path | None) -> str:
    """The whole prompt. Raises ValueError where there is none or it is no text; OSError for the file."""
    parts = []
    if file is not None and file != STANDARD_INPUT:
        parts.append(decoded(file.read_bytes(), str(file)))
    elif file == STANDARD_INPUT or argument is None or (is_piped() and speaks()):
        parts.append(standard_input())
    if argument is not None:
        parts.append(checked(argument, "the prompt"))
    prompt = "\n\n".join(part for part in parts if part)
    if not prompt:
        raise ValueError("the prompt is empty: give it as an argument, with --file, or on standard input")
    return prompt


def standard_input() -> str:
    if sys.stdin.isatty():
        print("Type the prompt; Ctrl-D on an empty line ends it.", file=sys.stderr)
    return decoded(sys.stdin.buffer.read(), "standard input")


def decoded(content: bytes, name: str) -> str:
    """UTF-8 with or without a byte order mark, without the line breaks at its end."""
    try:
        return content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 text: byte {error.object[error.start]:#x} at {error.start}"
        ) from None


def checked(text: str, name: str) -> str:
    """An argument whose bytes were no UTF-8 arrives with half surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not UTF-8 text") from None
    return text


def is_piped() -> bool:
    """Whether standard input is a pipe, a socket or a file: not a terminal, /dev/null, or closed."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or None
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def speaks() -> bool:
    """Whether standard input has something to read, or has ended, within PATIENCE."""
    if sys.platform == "win32":  # select is for sockets only there
        return True
    ready, _, _ = select.select([sys.stdin], [], [], PATIENCE)
    if not ready:
        notice("standard input is open but silent, so it was not read; with --file - it is waited for")
    return bool(ready)
