"""The command `pureqwen`: one verb per module, each of them one call of the package.

    standard output   what was asked for: the answer, a table, JSON
    standard error    everything else: progress, notices, warnings, errors
    exit code         0; 1 a mistake in what was asked, one line says which; 2 usage; 130 Ctrl-C

Verbs import torch only when they run a model: `pureqwen --help` answers at once.
"""

import atexit
import gc
import os
import sys
from collections.abc import Callable

from cyclopts import App

from pureqwen import __version__
from pureqwen.cli.bench import bench
from pureqwen.cli.chat import chat
from pureqwen.cli.download import download
from pureqwen.cli.errors import run
from pureqwen.cli.generate import generate
from pureqwen.cli.info import info
from pureqwen.cli.models import models
from pureqwen.cli.quantize import quantize
from pureqwen.cli.serve import serve
from pureqwen.cli.train import train

HELP = """The Qwen3 family of language models, from scratch in pure PyTorch.

MODEL is a folder with a checkpoint, a repository on the Hugging Face hub such as Qwen/Qwen3-0.6B, or
"pocket" or "pocket-moe", the small models that ship inside this package (dense, and a mixture of experts).
"""

VERBS: tuple[Callable[..., None], ...] = (
    chat,
    generate,
    serve,
    info,
    models,
    download,
    quantize,
    bench,
    train,
)


def make_app() -> App:
    """The command line as cyclopts sees it."""
    app = App(
        name="pureqwen",
        help=unwrapped(HELP),
        version=__version__,
        help_format="plaintext",
    )
    for order, verb in enumerate(VERBS):
        app.command(verb, help=unwrapped(verb.__doc__ or ""), sort_key=order)
    return app


def unwrapped(text: str) -> str:
    """Paragraphs on one line each: the terminal's width breaks them, not the source's."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def main() -> None:
    """The console script. Exits with the codes above."""
    # First, so that it comes last: to look for cycles in what ends with the process took half a second.
    atexit.register(gc.freeze)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started us: nothing to read, nobody who reads
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (until the program ends)
    if not sys.stderr.isatty():  # huggingface_hub draws its bars into files too
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    sys.exit(run(make_app(), sys.argv[1:]))
