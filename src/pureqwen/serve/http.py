"""The server: OpenAI's and Anthropic's routes over one engine, as an ASGI application.

    body --thread: parse, check, render, encode--> rows --Session--> engine --EventStream or JSON--> client

The event loop only hands things on: whatever may take long runs in a few threads, the model in the engine's.
Every field of the requests is in protocol/, every check of who may ask in guard.py.
"""

import asyncio
import functools
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pureqwen import __version__
from pureqwen.config import ServeConfig
from pureqwen.generate import Grammars, Result, Row
from pureqwen.qwen import Qwen
from pureqwen.serve.engine import Engine
from pureqwen.serve.guard import Guard, Visit
from pureqwen.serve.metrics import Metrics
from pureqwen.serve.prepare import check_lengths, check_prompts, make_rows, prompt_ids
from pureqwen.serve.protocol import body, chat, completions, messages, tokens
from pureqwen.serve.protocol.answer import Opening, Writer
from pureqwen.serve.protocol.ask import Ask, check_model, check_rows, no_model
from pureqwen.serve.protocol.chat_answer import ChatAnswer
from pureqwen.serve.protocol.completion_answer import CompletionAnswer
from pureqwen.serve.protocol.document import document
from pureqwen.serve.protocol.messages_answer import MessagesAnswer
from pureqwen.serve.protocol.refusal import Refusal, busy
from pureqwen.serve.session import RETRY, Session
from pureqwen.serve.stream import EventStream, collected

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
ToAsk = Callable[[Any, ServeConfig], Ask]

THREADS = 4
LONG = (
    64 * 1024
)  # bytes of a body that is prepared in a thread of its own, so that shorter ones need not wait
# A client hears that its body is too large only once it has sent it: so many times the limit is thrown away.
DISCARDED = 8
# Bytes of a body, for each token of the context, that are counted or decoded: prompts of several contexts.
COUNTED = 32


def create_app(engine: Engine, qwen: Qwen, config: ServeConfig) -> FastAPI:
    """The application; it starts the engine when it starts, and stops it when it ends."""
    service = Service(engine, qwen, config)
    app = FastAPI(
        title="pureqwen",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=service.lifespan,
    )
    for path, method, handler in service.routes():
        app.add_route(path, at(path, handler), methods=[method])
    app.add_exception_handler(HTTPException, no_route)
    app.add_middleware(Guard, config=config, metrics=service.metrics)
    app.state.service = service
    return app


def at(path: str, handler: Handler) -> Handler:
    """A handler that says which route it is."""

    async def endpoint(request: Request) -> Response:
        visit_of(request).route = path
        return await handler(request)

    return endpoint


def visit_of(request: Request) -> Visit:
    visit = request.state.visit
    assert isinstance(visit, Visit)
    return visit


async def no_route(request: Request, error: Exception) -> Response:
    """Starlette's 404 and 405 in our shape."""
    assert isinstance(error, HTTPException)
    text = {404: "there is no such route", 405: f"{request.method} is not possible here"}.get(
        error.status_code, str(error.detail)
    )
    raise Refusal(
        text, status=error.status_code, code="no_route", headers=dict(error.headers or {})
    ) from None


class Service:
    """The routes, and what they share."""

    def __init__(self, engine: Engine, qwen: Qwen, config: ServeConfig) -> None:
        self.engine, self.qwen, self.config = engine, qwen, config
        self.metrics = Metrics(engine)
        self.grammars = Grammars(qwen.tokenizer, eos_ids=qwen.eos_ids) if qwen.tokenizer else None
        self.stopping = False
        self._entering = 0  # requests that are read and prepared
        self._created = int(time.time())
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prepare")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="prepare-long")
        tokenizer = qwen.tokenizer
        sizes = [len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)] if tokenizer else []
        self._longest = max(sizes, default=1)  # bytes of a token
        self._most_counted = min(config.max_body, max(LONG, COUNTED * qwen.context))  # bytes

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("/v1/chat/completions", "POST", self.chat),
            ("/v1/completions", "POST", self.completions),
            ("/v1/messages", "POST", self.messages),
            ("/v1/messages/count_tokens", "POST", self.count_tokens),
            ("/v1/models", "GET", self.models),
            ("/v1/models/{name:path}", "GET", self.model),
            ("/tokenize", "POST", self.tokenize),
            ("/detokenize", "POST", self.detokenize),
            ("/health", "GET", self.health),
            ("/ready", "GET", self.ready),
            ("/metrics", "GET", self.figures),
            ("/openapi.json", "GET", self.openapi),
        ]

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.engine.start()
        try:
            yield
        finally:
            self.stopping = True
            await asyncio.to_thread(self.engine.stop)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._long.shutdown(wait=False, cancel_futures=True)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, chat.ChatRequest, chat.chat_ask, ChatAnswer, "chatcmpl-")

    async def completions(self, request: Request) -> Response:
        model, to_ask = completions.CompletionRequest, completions.completion_ask
        return await self._answer(request, model, to_ask, CompletionAnswer, "cmpl-")

    async def messages(self, request: Request) -> Response:
        model, to_ask = messages.MessagesRequest, messages.messages_ask
        return await self._answer(request, model, to_ask, MessagesAnswer, "msg_")

    async def count_tokens(self, request: Request) -> Response:
        data = await self._body(request, counted=True)
        model, to_ask, size = messages.CountRequest, messages.messages_ask, len(data)
        ask, ignored = await self._aside(self._read, data, model, to_ask, size=size)
        ids = await self._aside(prompt_ids, ask, self.engine.intake, size=size)
        return self._json({"input_tokens": len(ids)}, ignored)

    async def tokenize(self, request: Request) -> Response:
        data = await self._body(request, counted=True)
        model, to_ask, size = tokens.TokenizeRequest, tokens.tokenize_ask, len(data)
        ask, ignored = await self._aside(self._read, data, model, to_ask, size=size)
        return await self._aside(self._tokenized, ask, ignored, size=size)

    async def detokenize(self, request: Request) -> Response:
        data = await self._body(request, counted=True)
        return await self._aside(self._detokenized, data, size=len(data))

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.config.name:
            raise no_model(name, self.config)
        return JSONResponse(self._model())

    async def health(self, request: Request) -> Response:
        """Whether this process can ever answer again: 503 when the engine's thread has died."""
        alive = self.engine.healthy or self.stopping
        return JSONResponse({"status": "ok" if alive else "the engine has died"}, 200 if alive else 503)

    async def ready(self, request: Request) -> Response:
        """Whether a request that comes now is computed."""
        if self.engine.healthy and not self.stopping:
            return JSONResponse({"status": "ready"})
        why = "stopping" if self.stopping else "the engine does not step"
        return JSONResponse({"status": why}, 503, headers={"Retry-After": "10"})

    async def figures(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document(self.config))

    async def _answer(
        self,
        request: Request,
        model: type[body.Fields],
        to_ask: ToAsk,
        style: Callable[[Ask, Opening], Writer],
        prefix: str,
    ) -> Response:
        visit = visit_of(request)
        with self._entered():
            data = await self._body(request)
            ask, ignored = await self._aside(self._read_prompts, data, model, to_ask, size=len(data))
            rows, opening = await self._aside(self._prepared, ask, prefix, size=len(data))
        session = Session(self.engine, ask, rows, metrics=self.metrics, began=visit.began, salt=visit.salt)
        writer = style(ask, opening)
        visit.summary = functools.partial(session.summary, text=self.config.log_text)
        try:
            await self._aside(session.submit)
        except asyncio.CancelledError:
            session.abort()
            raise
        if ask.stream:
            stream = EventStream(session, writer, config=self.config, visit=visit)
            stream.headers.update(warning(ignored))
            return stream
        results = await collected(session, self.config, visit, request.receive)
        return await self._aside(self._whole, writer, results, ignored)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """While a request is read and prepared. Raises Refusal, before any work, where the queue is full."""
        if self.engine.statistics().waiting + self._entering >= self.engine.config.max_queue:
            raise busy("the queue is full: come back later", seconds=RETRY)
        self._entering += 1
        try:
            yield
        finally:
            self._entering -= 1

    async def _body(self, request: Request, *, counted: bool = False) -> bytes:
        """The bytes of a request, as many as may be: fewer where tokens are only counted. Raises Refusal."""
        limit = self._most_counted if counted else self.config.max_body
        most = self.config.max_body * DISCARDED
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal("send the header Content-Type: application/json", status=415, code="not_json")
        length = request.headers.get("content-length", "0")
        data, size = bytearray(), int(length if length.isascii() and length.isdigit() else 0)
        if size <= most:
            size = 0
            try:
                async with asyncio.timeout(self.config.stall_seconds):
                    async for piece in request.stream():
                        size += len(piece)
                        if size <= limit:
                            data += piece
                        elif size > most:
                            break
            except TimeoutError:
                raise cut("the body came too slowly", status=408, code="slow_body") from None
        if size <= limit:
            return bytes(data)
        many = counted and limit == COUNTED * self.qwen.context
        why = f", {COUNTED} for each token of the context" if many else ""
        raise cut(f"the body has more than {limit} bytes{why}: send less", status=413, code="body_too_large")

    async def _aside(self, function: Callable[..., T], *arguments: Any, size: int = 0) -> T:
        """The result of what may take long, computed in a thread. size: bytes of the body that it is for."""
        pool = self._long if size > LONG else self._pool
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    def _read(self, data: bytes, model: type[body.Fields], to_ask: ToAsk) -> tuple[Ask, list[str]]:
        request, ignored = body.read(model, body.parse(data), lenient=self.config.lenient)
        ask = to_ask(request, self.config)
        check_model(ask, self.config)
        check_rows(ask, self.config)
        return ask, ignored

    def _read_prompts(self, data: bytes, model: type[body.Fields], to_ask: ToAsk) -> tuple[Ask, list[str]]:
        """What is asked for, without prompts that can't fit."""
        ask, ignored = self._read(data, model, to_ask)
        most = self.config.max_prompt
        check_prompts(ask, context=self.qwen.context, most=most, longest=self._longest)
        return ask, ignored

    def _prepared(self, ask: Ask, prefix: str) -> tuple[list[Row], Opening]:
        """What the engine gets, and what the answer begins with."""
        rows = make_rows(ask, self.engine.intake, self.grammars)
        check_lengths(ask, rows, context=self.qwen.context, most=self.config.max_prompt)
        return rows, self._opening(ask, rows, prefix)

    def _whole(self, writer: Writer, results: Sequence[Result], ignored: list[str]) -> Response:
        return self._json(writer.whole(results), ignored)

    def _tokenized(self, ask: Ask, ignored: list[str]) -> Response:
        ids = prompt_ids(ask, self.engine.intake)
        told: dict[str, Any] = {"count": len(ids), "max_model_len": self.engine.intake.limit, "tokens": ids}
        if ask.echo:
            assert self.qwen.tokenizer is not None
            told["token_strs"] = [self.qwen.tokenizer.decode([id]) for id in ids]
        return self._json(told, ignored)

    def _detokenized(self, data: bytes) -> Response:
        request, ignored = body.read(tokens.DetokenizeRequest, body.parse(data), lenient=self.config.lenient)
        if request.model not in (None, self.config.name):
            raise no_model(request.model or "", self.config)
        if self.qwen.tokenizer is None:
            raise Refusal("this model has no tokenizer.json")
        size = self.qwen.tokenizer.vocab_size
        if wrong := [id for id in request.tokens if id >= size]:
            raise Refusal(f"tokens holds {wrong[0]}, but the ids are 0 to {size - 1}", param="tokens")
        return self._json({"prompt": self.qwen.tokenizer.decode(request.tokens)}, ignored)

    def _opening(self, ask: Ask, rows: list[Row], prefix: str) -> Opening:
        tokenizer = self.qwen.tokenizer
        prompts = ask.prompts or ()
        each = [prompt for prompt in prompts for _ in range(ask.n)] if ask.echo else []
        texts = [one if isinstance(one, str) else tokenizer.decode(one) if tokenizer else "" for one in each]
        return Opening(
            id=f"{prefix}{uuid.uuid4().hex}",
            model=self.config.name,
            created=int(time.time()),
            texts=texts,
            firsts=[row.text_of(row.ids[0]) for row in rows],
            counts=[row.num_prompt for row in rows],
            bytes_of=tokenizer.token_bytes if tokenizer else lambda id: b"",
        )

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.config.name,
            "object": "model",
            "created": self._created,
            "owned_by": "pureqwen",
            "max_model_len": self.engine.intake.limit,
        }

    def _json(self, value: Any, ignored: list[str]) -> Response:
        return JSONResponse(value, headers=warning(ignored))


def cut(text: str, *, status: int, code: str) -> Refusal:
    """A refusal before the body has come: the connection is of no use any more."""
    return Refusal(text, status=status, code=code, headers={"Connection": "close"})


def warning(ignored: list[str]) -> dict[str, str]:
    """The header in which a lenient server says what it left out."""
    if not ignored:
        return {}
    named = re.sub(r"[^\x20-\x7e]", "?", ", ".join(ignored))[:500]
    return {"x-ignored-fields": named}
