"""From an exception to an exit code and one line: the only place of the package that ends a program.

    0 done   1 the user's mistake, or the machine's refusal   2 usage   130 Ctrl-C   141 the reader left

A ValueError or OSError is a message to the user and never shows a traceback. Any other exception is a
mistake of this package: its traceback is what a report needs.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from cyclopts import App, CycloptsError, UnusedCliTokensError

from pureqwen.cli.terminal import visible

USER, USAGE, INTERRUPTED, PIPE = 1, 2, 130, 141


def run(app: App, arguments: Sequence[str]) -> int:
    """Run the verb that the arguments name and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure(stream)
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
            command(*bound.args, **bound.kwargs)
            sys.stdout.flush()
        except CycloptsError as error:
            say("error", f"{usage(error)} See {help_for(app, arguments)}.")
            return USAGE
        except KeyboardInterrupt:
            return leave(INTERRUPTED)
        except BrokenPipeError:
            return leave(PIPE)
        except (ValueError, OSError) as error:
            say("error", describe(error))
            return leave(USER)
        except Exception as error:
            if not is_out_of_memory(error):
                say(
                    "error",
                    "this is a mistake in pureqwen, not in what you asked; please report what follows",
                )
                raise
            say("error", f"out of memory: take a smaller model or a smaller --context ({describe(error)})")
            return leave(USER)
    return 0


def usage(error: CycloptsError) -> str:
    """What cyclopts says on one line, with the commonest cause."""
    text = " ".join(str(error).split())
    if isinstance(error, UnusedCliTokensError):
        return f"{text} A prompt of several words needs quotes."
    return text


def help_for(app: App, arguments: Sequence[str]) -> str:
    """The command that shows the help of the verb that was meant."""
    verb = arguments[0] if arguments and arguments[0] in app else ""
    return " ".join(word for word in ("pureqwen", verb, "--help") if word)


def describe(error: BaseException) -> str:
    """An exception's message on one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def say(kind: str, text: str) -> None:
    """One line on standard error."""
    print(f"pureqwen: {kind}: {visible(text)}", file=sys.stderr, flush=True)


def notice(text: str) -> None:
    """A remark that is no error: the answer is there, but not as one might think."""
    say("notice", text)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line, without the place in the source that Python would print."""
    say("warning", " ".join(str(message).split()))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, a device or PyTorch's CPU allocator had no memory left. Imports no torch."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or named or "can't allocate memory" in str(error)


def leave(code: int) -> int:
    """Flush what is left of the answer; a reader that has gone must not cause a second error at exit."""
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def reconfigure(stream: object) -> None:
    """Let a terminal that knows no UTF-8 show what it can, instead of failing in the middle of an answer."""
    from io import TextIOWrapper

    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
