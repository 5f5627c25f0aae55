"""The bodies of requests: as many bytes as may be, within a time, and not too many of them at once.

    head -> Content-Type, Content-Length -> pieces -> bytes, held until the request is prepared

A body that is still coming is no request yet, and takes no place in the queue. What all of them hold together
has a bound of its own. The first bytes of each do not count there, so a short request is let in whatever else
is being sent; how many connections there may be bounds these.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from pureqwen.config import ServeConfig
from pureqwen.serve.protocol.refusal import Refusal, busy, stopping
from pureqwen.serve.threads import LONG

# A client hears that its body is too large only once it has sent it: so many times the limit is thrown away.
DISCARDED = 8
HELD = 32  # bodies of the greatest length that there is room for at once
RETRY = 2  # seconds after which a client that finds no room may come again


class Uploads:
    """The bodies that are being read or prepared."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._held = 0  # bytes, but for the first ones of each
        self._coming: set[asyncio.Timeout] = set()
        self._stopped = False

    def stop(self) -> None:
        """Wait for no body any more: whoever is sending one is told so. Of the event loop's thread."""
        self._stopped = True
        for one in self._coming:
            one.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def body(self, request: Request, *, limit: int, why: str = "") -> AsyncIterator[bytes]:
        """The bytes of a request, which are held while the block runs. Raises Refusal.

        limit: most bytes; why: what makes them so many, for whoever sends more.
        """
        data = bytearray()
        try:
            await self._read(request, data, limit=limit, why=why)
            yield bytes(data)
        finally:
            self._held -= counted(len(data))

    async def _read(self, request: Request, data: bytearray, *, limit: int, why: str) -> None:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal("send the header Content-Type: application/json", status=415, code="not_json")
        most = self._config.max_body * DISCARDED
        length = request.headers.get("content-length", "0")
        size = int(length if length.isascii() and length.isdigit() else 0)
        if size <= most:
            size = 0
            try:
                async with self._in_time():
                    async for piece in request.stream():
                        size += len(piece)
                        if size <= limit:
                            self._hold(data, piece)
                        elif size > most:
                            break
            except TimeoutError:
                if self._stopped:
                    raise stopping() from None
                raise cut("the body came too slowly", status=408, code="slow_body") from None
        if size > limit:
            raise cut(
                f"the body has more than {limit} bytes{why}: send less", status=413, code="body_too_large"
            )

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """TimeoutError when a body takes too long, or the server stops."""
        async with asyncio.timeout(0 if self._stopped else self._config.stall_seconds) as coming:
            self._coming.add(coming)
            try:
                yield
            finally:
                self._coming.discard(coming)

    def _hold(self, data: bytearray, piece: bytes) -> None:
        """One piece more. Raises Refusal where there is no room for it."""
        more = counted(len(data) + len(piece)) - counted(len(data))
        if more and self._held + more > self._config.max_body * HELD:
            refusal = busy("too many long bodies are being sent: come back later", seconds=RETRY)
            refusal.headers["Connection"] = "close"
            raise refusal
        self._held += more
        data += piece


def counted(size: int) -> int:
    """How many bytes of a body count."""
    return max(0, size - LONG)


def cut(text: str, *, status: int, code: str) -> Refusal:
    """A refusal before the body has come: the connection is of no use any more."""
    return Refusal(text, status=status, code=code, headers={"Connection": "close"})
