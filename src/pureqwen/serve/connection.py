"""A connection whose client gets on: who begins a request and does not end it is not waited for.

    opened, or a request's first byte   --head_seconds--> its head is whole; else 408, and the end
    answered before the body has come   --head_seconds--> the rest of it has; else the end

uvicorn bounds neither: it counts the seconds between two requests only, and a byte now and then would hold a
connection for ever, until there are as many as may be. The time of a body that is read is limited where it is
read (http.py). h11 it is, whatever else is installed, because it tells how far a client has come.
"""

import asyncio
import json

import h11
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from pureqwen.serve.http import Service
from pureqwen.serve.log import log
from pureqwen.serve.protocol.refusal import Refusal


class Connection(H11Protocol):
    """uvicorn's, which ends by itself where the client does not get on."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(begun=True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch(begun=True)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch(begun=bool(self.conn.trailing_data[0]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch(begun=False)
        super().connection_lost(exc)

    def _watch(self, *, begun: bool) -> None:
        """Count the seconds while the client owes something, from where it began to."""
        head = begun and self.conn.their_state is h11.IDLE
        body = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if not (head or body) or self.transport.is_closing():
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._timer = self.loop.call_later(self._service.config.head_seconds, self._end)

    def _end(self) -> None:
        """The time is over. Who has sent nothing yet asks nothing, and is told nothing."""
        self._timer = None
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            refusal = Refusal("the head of the request came too slowly", status=408, code="slow_head")
            self._service.metrics.errors.labels(refusal.code).inc()
            log("request", status=refusal.status, reason=refusal.code)
            self._tell(refusal)
        self.transport.close()

    def _tell(self, refusal: Refusal) -> None:
        body = json.dumps(refusal.openai()).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        head = h11.Response(status_code=refusal.status, headers=headers, reason="Request Timeout")
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")

    @property
    def _service(self) -> Service:
        app = self.config.app
        assert isinstance(app, FastAPI)
        service = app.state.service
        assert isinstance(service, Service)
        return service
