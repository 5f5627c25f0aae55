"""Who answers a crowd: a server over HTTP, or a worker that does what a server would."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers import crowd_client
from benchmarks.peers.crowd import Request, plain
from benchmarks.peers.process import Failed, Worker

START, PATIENCE = 120.0, 3600.0  # seconds until it is ready, and for a crowd


class Answerer(Protocol):
    """A program that holds its model."""

    def crowd(self, requests: Sequence[Request]) -> list[list[float]]: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """How one is started. command: of a server, a function of its port; of a worker, plain.

    ready: the path that tells when a server is. fields: what its requests want besides.
    """

    name: str
    bits: int
    command: Callable[[int], Sequence[str]] | Sequence[str]
    model: str = ""
    ready: str = "/ready"
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}, {self.bits} bits"

    def start(self, folder: Path, environment: Mapping[str, str]) -> Answerer:
        """Loaded. Failed where it can't be."""
        log = folder / f"{time.monotonic_ns()}.log"
        if callable(self.command):
            return Server(self, self.command, log=log, environment=environment)
        return Held(Worker(self.command, log=log, environment=environment))


class Held:
    """A worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        try:
            self.facts = worker.ask("load")["facts"]
        except Failed:
            worker.stop()
            raise

    def crowd(self, requests: Sequence[Request]) -> list[list[float]]:
        times: list[list[float]] = self.worker.ask("crowd", patience=PATIENCE, requests=plain(requests))[
            "times"
        ]
        return times

    def stop(self) -> None:
        self.worker.stop()


class Server:
    """A process that listens on a port of this machine."""

    def __init__(
        self,
        program: Program,
        command: Callable[[int], Sequence[str]],
        *,
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.program, self.log, self.port = program, log, free_port()
        with log.open("w") as errors:
            try:
                self.process = subprocess.Popen(
                    command(self.port), stdout=errors, stderr=errors, env=os.environ | dict(environment)
                )
            except OSError as error:
                raise Failed(f"not installed: {error.strerror}") from error
        self._wait()

    def crowd(self, requests: Sequence[Request]) -> list[list[float]]:
        try:
            return crowd_client.ask(self.port, requests, model=self.program.model, fields=self.program.fields)
        except (RuntimeError, OSError) as error:
            raise Failed(str(error)) from error

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait(self) -> None:
        """Until it is ready. Failed where it ends, or never is."""
        end = time.monotonic() + START
        while self.process.poll() is None and time.monotonic() < end:
            if answers(self.port, self.program.ready):
                return
            time.sleep(0.1)
        self.process.kill()
        self.process.wait()
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        raise Failed(f"not ready: {lines[-1].strip() if lines else 'no word'}"[:300])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    """Whether a server says there that all is well."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        link.request("GET", path)
        return link.getresponse().status == 200
    except OSError:
        return False
    finally:
        link.close()
