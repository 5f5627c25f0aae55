"""A worker from outside: start it, ask it, stop it, and say why it failed."""

import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE = 900  # seconds for one answer


class Failed(Exception):
    """Why a worker gives no figures."""


class Worker:
    """A process that answers; `started` is when it began to exist."""

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("w") as errors:
            self.started = time.perf_counter()
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=os.environ | dict(environment or {}),
                )
            except OSError as error:
                raise Failed(f"not installed: {error.strerror}") from error

    def ask(self, do: str, *, patience: float = PATIENCE, **fields: Any) -> dict[str, Any]:
        """One command, one answer. Failed where the answer is an error, comes too late, or never."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Failed(self._death()) from error
        line = self._line(patience)
        if not line:
            raise Failed(self._death())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def stop(self) -> None:
        """End it: by the end of its input, by force if that does not help."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _line(self, patience: float) -> bytes:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(patience):
                self.process.kill()
                raise Failed(f"no answer in {patience:g} s")
        return self.process.stdout.readline()  # an answer is one short line, written at once

    def _death(self) -> str:
        """What a worker that is gone last wrote."""
        code = self.process.wait()
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"ended with {code}: {lines[-1].strip() if lines else 'no word'}"[:300]
