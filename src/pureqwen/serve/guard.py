"""What every request passes before it reaches a route: its id, its host, its origin, its key.

    Host     localhost, an IP address or a listed name: a page whose name is bound to this machine (DNS
             rebinding, CVE-2024-28224) has another one
    Origin   the same page's, or a listed one; only to listed ones CORS is open
    key      `Authorization: Bearer KEY` or `x-api-key: KEY`; every route but /health wants it

Whatever goes wrong further in becomes an error in the shape of the protocol, here and nowhere else.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pureqwen.config import ServeConfig
from pureqwen.serve.log import log
from pureqwen.serve.metrics import Metrics
from pureqwen.serve.protocol.refusal import Refusal, internal, stopping

SANE = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
OPEN = ("/health",)
# What a listed page may send, beside what its browser names: clients for pages add headers of their own.
SENT = ("authorization", "content-type", "x-api-key", "x-request-id", "anthropic-version", "anthropic-beta")
TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")  # the name of a header
MAX_NAMED = 64


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, config: ServeConfig, metrics: Metrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics
        self._keys = [digest(key) for key in config.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        visit = Visit(scope, headers, self._config)
        scope.setdefault("state", {})["visit"] = visit
        try:
            answer = self._refuse_or_preflight(scope["path"], headers, visit)
            await (answer or self._app)(scope, receive, visit.wrapped(send))
        except Refusal as refusal:
            await self._fail(refusal, visit, scope, receive, send)
        except ClientDisconnect:
            visit.error = visit.error or "disconnected"
        except asyncio.CancelledError:  # the server ends at once; nobody waits for this task
            await self._fail(stopping(), visit, scope, receive, send)
            visit.error = "cut_off"
        except Exception as error:
            log("crash", level=logging.ERROR, error=error, request_id=visit.id)
            await self._fail(internal(), visit, scope, receive, send)
        finally:
            visit.end(self._metrics)

    def _refuse_or_preflight(self, path: str, headers: Headers, visit: "Visit") -> Response | None:
        check_host(headers, self._config)
        check_origin(headers, self._config)
        if visit.method == "OPTIONS" and visit.origin and "access-control-request-method" in headers:
            return Response(status_code=204, headers=allowed(headers))
        if self._keys and path not in OPEN:
            visit.salt = self._check_key(headers)
        return None

    def _check_key(self, headers: Headers) -> str:
        """The salt of whoever asks; every key is compared, so that the time tells nothing."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = digest(token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", ""))
        matches = [hmac.compare_digest(key, given) for key in self._keys]
        if not any(matches):
            raise Refusal(
                "this server wants an API key: send `Authorization: Bearer KEY`",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return given.hex() if self._config.salted else ""

    async def _fail(
        self, refusal: Refusal, visit: "Visit", scope: Scope, receive: Receive, send: Send
    ) -> None:
        visit.error = refusal.code
        visit.message = refusal.message if refusal.status >= 500 else None
        if visit.status:  # the answer has begun: nothing can be said but that it ends here
            return
        shaped = refusal.anthropic(visit.id) if scope["path"].startswith("/v1/messages") else refusal.openai()
        response = JSONResponse(shaped, status_code=refusal.status, headers=refusal.headers)
        await response(scope, receive, visit.wrapped(send))


class Visit:
    """One request from arrival to end: its id, who asks, and what the log says of it."""

    def __init__(self, scope: Scope, headers: Headers, config: ServeConfig) -> None:
        given = headers.get("x-request-id", "")
        self.id = given if SANE.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        self.method, self.path = scope["method"], scope["path"]
        origin = headers.get("origin")
        self.origin = origin if origin in config.origins else None
        self.route = "other"  # a path of our own, for the metrics; a client's could be anything
        self.began = time.monotonic()
        self.status = 0
        self.salt = ""
        self.error: str | None = None
        self.message: str | None = None
        self.summary: Callable[[], dict[str, Any]] | None = None  # what else the log says

    def wrapped(self, send: Send) -> Send:
        """`send` that adds our headers and remembers the status."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(self._headers())
                if self.origin is not None:
                    headers.add_vary_header("Origin")
            await send(message)

        return sending

    def _headers(self) -> Mapping[str, str]:
        common = {"x-request-id": self.id, "request-id": self.id, "X-Content-Type-Options": "nosniff"}
        if self.origin is None:
            return common
        shown = "x-request-id, request-id, retry-after, x-ignored-fields"
        return common | {
            "Access-Control-Allow-Origin": self.origin,
            "Access-Control-Expose-Headers": shown,
        }

    def end(self, metrics: Metrics) -> None:
        """Count it and write its line."""
        seconds = time.monotonic() - self.began
        metrics.requests.labels(self.route, str(self.status)).inc()
        metrics.seconds.labels(self.route).observe(seconds)
        if self.error is not None:
            metrics.errors.labels(self.error).inc()
        if self.route not in ("/health", "/ready", "/metrics") or self.error is not None:
            log(
                "request",
                request_id=self.id,
                method=self.method,
                path=self.path[:200],
                status=self.status,
                seconds=seconds,
                reason=self.error,
                message=self.message,
                **(self.summary() if self.summary else {}),
            )


def allowed(headers: Headers) -> dict[str, str]:
    """What a browser wants to know before a listed page asks: the headers that it names may be sent."""
    named = headers.get("access-control-request-headers", "").lower().split(",")
    names = [name.strip() for name in named if TOKEN.fullmatch(name.strip())]
    return {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": ", ".join(dict.fromkeys((*SENT, *names[:MAX_NAMED]))),
        "Access-Control-Max-Age": "600",
        "Vary": "Access-Control-Request-Headers",
    }


def digest(key: str) -> bytes:
    """Keys are compared by their hashes, which are all of one length."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def host_of(netloc: str) -> str:
    """The name in a Host header, without port and brackets, in lower case."""
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0].lower()
    return netloc.rpartition(":")[0].lower() if ":" in netloc else netloc.lower()


def check_host(headers: Headers, config: ServeConfig) -> None:
    """421 for a name that nobody gave to this server."""
    given = headers.getlist("host")
    name = host_of(given[0]) if len(given) == 1 else ""
    listed = {host.lower() for host in config.hosts} | {"localhost"}
    if name.rstrip(".") in listed or "*" in listed or is_address(name):
        return
    raise Refusal(
        "the Host header has a name that this server does not answer to: start it with --allowed-host NAME",
        status=421,
        code="unknown_host",
    )


def is_address(name: str) -> bool:
    """Whether a host is an IP address: no name, so nobody can have bound it to this machine."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def check_origin(headers: Headers, config: ServeConfig) -> None:
    """403 for a page of somebody else's."""
    origin = headers.get("origin")
    if origin is None or origin in config.origins:
        return
    scheme, _, netloc = origin.partition("://")
    if scheme in ("http", "https") and netloc.lower() == headers.get("host", "").lower():
        return
    raise Refusal(
        "this page may not ask this server: start it with --allowed-origin ORIGIN",
        status=403,
        code="unknown_origin",
    )
