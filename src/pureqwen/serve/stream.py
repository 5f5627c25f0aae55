"""An answer on its way to the client: in one piece, or as server-sent events, and never for nobody.

    news -> writer -> bytes -> send       waits where the reader is slow; nobody else waits with it
    receive -> disconnect                 gives the request up at once, whatever it is waiting for

A stream ends in one of three ways: complete ([DONE] or message_stop), with an error event, or, where the
reader took nothing for too long, by closing the connection.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pureqwen.config import ServeConfig
from pureqwen.generate import Result
from pureqwen.serve.guard import Visit
from pureqwen.serve.log import log
from pureqwen.serve.protocol.answer import KEEPALIVE, Piece, Writer
from pureqwen.serve.protocol.refusal import Refusal, internal, late
from pureqwen.serve.session import Session

T = TypeVar("T")
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(Response):
    """The events of one request's answer."""

    media_type = "text/event-stream"

    def __init__(self, session: Session, writer: Writer, *, config: ServeConfig, visit: Visit) -> None:
        super().__init__(headers=HEADERS, media_type="text/event-stream; charset=utf-8")
        del self.headers["content-length"]
        self._session, self._writer, self._config, self._visit = session, writer, config, visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await attended(self._run(send), receive, leave=self._session.abort)

    async def _run(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._send(send, self._writer.begin())
            await each(
                self._session, self._config, self._visit, lambda text: self._send(send, text), self._writer
            )
            last = self._writer.end(self._session.results)
        except Refusal as refusal:
            last = self._failure(refusal)
        except (ClientDisconnect, OSError):  # nobody hears what we say
            raise
        except Exception as error:  # ours: a client that hears nothing would wait, or take it for the end
            log("crash", level=logging.ERROR, error=error, request_id=self._visit.id)
            last = self._failure(internal())
        await self._send(send, last)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _failure(self, refusal: Refusal) -> str:
        self._visit.error, self._visit.message = refusal.code, refusal.message
        return self._writer.failure(refusal)

    async def _send(self, send: Send, text: str) -> None:
        if not text:
            return
        try:
            async with asyncio.timeout(self._config.stall_seconds):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        except TimeoutError:
            self._visit.error = "stalled"
            raise ClientDisconnect from None


async def each(
    session: Session,
    config: ServeConfig,
    visit: Visit,
    tell: Callable[[str], Awaitable[None]],
    writer: Writer,
) -> None:
    """Tell what the writer makes of the news until there is no more, and that we live where there is none."""
    deadline = visit.began + config.request_seconds
    while not session.done:
        left = deadline - time.monotonic()
        if left <= 0:
            raise late(config.request_seconds)
        pieces = await session.take(timeout=min(config.keepalive_seconds, left))
        if pieces is None:
            await tell(KEEPALIVE)
        elif any(piece.prompt_logprobs for piece in pieces):  # of a long prompt it is much to write
            await tell(await asyncio.to_thread(written, writer, pieces))
        else:
            await tell(written(writer, pieces))


def written(writer: Writer, pieces: Sequence[Piece]) -> str:
    return "".join(writer.piece(piece) for piece in pieces)


async def collected(
    session: Session, config: ServeConfig, visit: Visit, receive: Receive
) -> Sequence[Result]:
    """The results of all rows. Raises Refusal, or ClientDisconnect when nobody waits any more."""

    async def wait() -> Sequence[Result]:
        deadline = visit.began + config.request_seconds
        while not session.done:
            left = deadline - time.monotonic()
            if left <= 0:
                raise late(config.request_seconds)
            await session.take(timeout=left)
        return session.results

    return await attended(wait(), receive, leave=session.abort)


async def attended(work: Coroutine[object, object, T], receive: Receive, *, leave: Callable[[], None]) -> T:
    """What `work` comes to; ClientDisconnect as soon as the client is gone. `leave` is called in any case."""
    job, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait({job, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientDisconnect
        return job.result()
    finally:
        leave()
        job.cancel()
        watch.cancel()
        await asyncio.gather(job, watch, return_exceptions=True)


async def gone(receive: Receive) -> None:
    """Returns when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
