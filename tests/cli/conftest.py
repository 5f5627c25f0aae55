"""Running the command line in this process, on a model that answers from a script."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from fake_qwen import FakeQwen

from pureqwen.cli import make_app
from pureqwen.cli.errors import run
from pureqwen.cli.options import ModelOptions


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeQwen:
    """The model that every verb loads in this test."""
    qwen = FakeQwen()
    monkeypatch.setattr(ModelOptions, "load", lambda self: qwen)
    return qwen


@pytest.fixture
def pureqwen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fake: FakeQwen
) -> Callable[..., Ran]:
    """`pureqwen("generate", "hi", input="...")`: exit code and what was printed, through pipes."""

    def call(*arguments: str, input: str | bytes = b"") -> Ran:
        content = input if isinstance(input, bytes) else input.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        code = run(make_app(), arguments)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return call
