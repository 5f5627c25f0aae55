"""The process around the application: its socket, its signals, and a stop that loses no answer.

    SIGTERM, SIGINT -> no new connections; running answers have `drain` seconds, then they end with an error
    once more       -> at once

uvicorn (h11) speaks HTTP.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from pureqwen.serve.http import Service
from pureqwen.serve.log import log

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 5  # seconds for the last bytes to leave, after the engine has stopped


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; 0 takes a free port. Raises ValueError where that can't be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"can't listen on {host} port {port} ({why}): stop what listens there, or give another --port"
        ) from error
    return bound


class Server(uvicorn.Server):
    """uvicorn's server, which stops the engine before it waits for the answers to end."""

    def __init__(self, app: FastAPI, *, drain: float = 0.0) -> None:
        settings = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(drain) + GRACE,
        )
        super().__init__(settings)
        service = app.state.service
        assert isinstance(service, Service)
        self._service, self._drain = service, drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the answers end, or end them, and then the connections."""
        log("stopping", drain=self._drain)
        self._service.stopping = True
        stop = asyncio.create_task(asyncio.to_thread(self._service.engine.stop, drain=self._drain))
        await super().shutdown(sockets)
        await stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server and do nothing else: the process ends by itself, with exit code 0."""
        previous = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
