"""The process around the application: its socket, its signals, and a stop that loses no answer.

    SIGTERM, SIGINT -> no new connections; running answers have `drain` seconds, then they end with an error
    once more       -> at once

uvicorn speaks HTTP (connection.py).
"""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

if sys.platform != "win32":
    import resource

import uvicorn
from fastapi import FastAPI

from pureqwen.serve.connection import Connection
from pureqwen.serve.http import Service
from pureqwen.serve.log import log

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 5  # seconds for the last bytes to leave, after the engine has stopped
KEEP_ALIVE = 75  # seconds; longer than clients keep theirs, which else would write to one that just closed
CONNECTIONS = 1024  # open at once, also those that send nothing; while they are so many, requests get a 503
FILES = 8 * CONNECTIONS  # that the process may have open, where the system lets it
SWITCH = 0.0002  # seconds for which a thread that computes in Python may let the others wait
DEAF = 60.0  # seconds after which the system cuts off whoever takes no byte; Linux only


def listen(host: str, port: int, *, deaf: float = DEAF) -> socket.socket:
    """A socket bound to the address; 0 takes a free port. Raises ValueError where that can't be.

    deaf: seconds after which a connection ends whose client takes nothing, in the middle of an answer or of
    its end: a server that waits for it to read the last bytes would wait for ever.
    """
    if not 0 <= port <= 65535:  # the system would take the rest of a division
        raise ValueError(f"can't listen on port {port}: it must be from 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":  # connections have it from the socket that took them
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(deaf * 1000))
        try:
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"can't listen on {host} port {port} ({why}): stop what listens there, or give another --port"
        ) from error
    return bound


@contextlib.contextmanager
def tuned() -> Iterator[None]:
    """A process that serves and does nothing else, while the block runs.

    Its threads hand over soon: each product of the model lets the others have their turn, and would wait the
    5 ms of Python's habit for its own beside a body that is being read. It may have more files open than the
    1,024 that are usual: connections are files. What it has made so far, modules and model, stays: Python
    looks for cycles no more in it, a quarter of a second each time in which no stream went on.
    """
    before, frozen = sys.getswitchinterval(), gc.get_freeze_count()
    sys.setswitchinterval(min(SWITCH, before))
    files = more_files()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
        sys.setswitchinterval(before)
        if files is not None and sys.platform != "win32":
            resource.setrlimit(resource.RLIMIT_NOFILE, files)


def more_files() -> tuple[int, int] | None:
    """Let this process open FILES files, or as many as it may; the limits as they were, if they changed."""
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft, hard


class Server(uvicorn.Server):
    """uvicorn's server, which stops the engine before it waits for the answers to end.

    drain: seconds that running answers have. ready: is called once requests are answered.
    """

    def __init__(self, app: FastAPI, *, drain: float = 0.0, ready: Callable[[], None] | None = None) -> None:
        settings = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(drain) + GRACE,
        )
        super().__init__(settings)
        service = app.state.service
        assert isinstance(service, Service)
        self._service, self._drain, self._ready = service, drain, ready
        service.crowded = lambda: len(self.server_state.connections) >= CONNECTIONS

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the answers end, or end them, and then the connections."""
        log("stopping", drain=self._drain)
        self._service.stop()
        stop = asyncio.create_task(asyncio.to_thread(self._service.engine.stop, drain=self._drain))
        await super().shutdown(sockets)
        if self.force_exit:
            await asyncio.to_thread(self._service.engine.stop)
            await (
                self.lifespan.shutdown()
            )  # uvicorn leaves that out, and then the loop ends under the application
        await stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal asks for the stop, any other one for a stop at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server and do nothing else: the process ends by itself, with exit code 0."""
        previous = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
