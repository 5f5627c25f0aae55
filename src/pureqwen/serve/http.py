"""The server: OpenAI's and Anthropic's routes over one engine, as an ASGI application.

    body --threads: parse, check, render, encode--> rows --Session--> engine --EventStream or JSON--> client

The event loop only hands things on: whatever may take long runs in threads.py, the model in the engine's.
Every field of the requests is in protocol/, every check of who may ask in guard.py.
"""

import asyncio
import functools
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pureqwen import __version__
from pureqwen.config import ServeConfig
from pureqwen.generate import Grammar, Grammars, Result, Row
from pureqwen.qwen import Qwen
from pureqwen.serve.engine import Engine
from pureqwen.serve.guard import Guard, Visit
from pureqwen.serve.metrics import Metrics
from pureqwen.serve.prepare import check_lengths, check_prompts, make_form, make_rows, prompt_ids
from pureqwen.serve.protocol import body, chat, completions, messages, tokens
from pureqwen.serve.protocol.answer import Opening, Writer
from pureqwen.serve.protocol.ask import Ask, check_model, check_rows, no_model
from pureqwen.serve.protocol.chat_answer import ChatAnswer
from pureqwen.serve.protocol.completion_answer import CompletionAnswer
from pureqwen.serve.protocol.document import document
from pureqwen.serve.protocol.messages_answer import MessagesAnswer
from pureqwen.serve.protocol.refusal import Refusal, busy, crowded
from pureqwen.serve.session import Session
from pureqwen.serve.stream import EventStream, collected
from pureqwen.serve.threads import LONG, Threads, kind_of
from pureqwen.serve.uploads import RETRY, Uploads

Handler = Callable[[Request], Awaitable[Response]]
ToAsk = Callable[[Any, ServeConfig], Ask]

# Bytes of a body, for each token of the context, that are counted or decoded: prompts of several contexts.
COUNTED = 32
SPARED = ("/health", "/ready", "/metrics")  # who watches over a server must see one that is crowded


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
        app.add_route(path, service.at(path, handler), methods=[method])
    app.add_exception_handler(HTTPException, no_route)
    app.add_middleware(Guard, config=config, metrics=service.metrics)
    app.state.service = service
    return app


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
        self.crowded: Callable[[], bool] = lambda: False  # whether more connections are open than may be
        self._entering = 0  # requests that are prepared
        self._created = int(time.time())
        self._threads, self._uploads = Threads(), Uploads(config)
        self._document = JSONResponse(document(config)).body
        self._most_counted = min(config.max_body, max(LONG, COUNTED * qwen.context))  # bytes

    def stop(self) -> None:
        """Take no more: what still arrives is refused, a body that has not come whole among it."""
        self.stopping = True
        self._uploads.stop()

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

    def at(self, path: str, handler: Handler) -> Handler:
        """A handler that says which route it is, and refuses while there are too many connections."""

        async def endpoint(request: Request) -> Response:
            visit_of(request).route = path
            if path not in SPARED and self.crowded():
                raise crowded(seconds=RETRY)
            return await handler(request)

        return endpoint

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.engine.start()
        try:
            yield
        finally:
            self.stopping = True
            await asyncio.to_thread(self.engine.stop)
            self._threads.stop()

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, chat.ChatRequest, chat.chat_ask, ChatAnswer, "chatcmpl-")

    async def completions(self, request: Request) -> Response:
        model, to_ask = completions.CompletionRequest, completions.completion_ask
        return await self._answer(request, model, to_ask, CompletionAnswer, "cmpl-")

    async def messages(self, request: Request) -> Response:
        model, to_ask = messages.MessagesRequest, messages.messages_ask
        return await self._answer(request, model, to_ask, MessagesAnswer, "msg_")

    async def count_tokens(self, request: Request) -> Response:
        model, to_ask = messages.CountRequest, messages.messages_ask
        async with self._counted(request) as data:
            kind = kind_of(len(data))
            ask, ignored = await self._threads.run(kind, self._read, data, model, to_ask)
            ids = await self._threads.run(kind, prompt_ids, ask, self.engine.intake)
        return self._json({"input_tokens": len(ids)}, ignored)

    async def tokenize(self, request: Request) -> Response:
        model, to_ask = tokens.TokenizeRequest, tokens.tokenize_ask
        async with self._counted(request) as data:
            kind = kind_of(len(data))
            ask, ignored = await self._threads.run(kind, self._read, data, model, to_ask)
            return await self._threads.run(kind, self._tokenized, ask, ignored)

    async def detokenize(self, request: Request) -> Response:
        async with self._counted(request) as data:
            return await self._threads.run(kind_of(len(data)), self._detokenized, data)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.config.name:
            raise no_model(name, self.config)
        return JSONResponse(self._model())

    async def health(self, request: Request) -> Response:
        """Whether this process can ever answer again: 503 when the engine's thread has died."""
        alive = self.engine.alive or self.stopping
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
        return Response(self._document, media_type="application/json")

    async def _answer(
        self,
        request: Request,
        model: type[body.Fields],
        to_ask: ToAsk,
        style: Callable[[Ask, Opening], Writer],
        prefix: str,
    ) -> Response:
        visit, run = visit_of(request), self._threads.run
        self._check_queue()
        async with self._uploads.body(request, limit=self.config.max_body) as data:
            with self._entered():
                kind = kind_of(len(data))
                ask, ignored = await run(kind, self._read_prompts, data, model, to_ask)
                form = (
                    await run("forms", make_form, ask, self.engine.intake, self.grammars)
                    if ask.form
                    else None
                )
                rows, opening = await run(kind, self._prepared, ask, form, prefix)
                session = Session(
                    self.engine, ask, rows, metrics=self.metrics, began=visit.began, salt=visit.salt
                )
                visit.summary = functools.partial(session.summary, text=self.config.log_text)
                session.submit()
        writer = style(ask, opening)
        if ask.stream:
            stream = EventStream(session, writer, config=self.config, visit=visit)
            stream.headers.update(warning(ignored))
            return stream
        results = await collected(session, self.config, visit, request.receive)
        return await run("short", self._whole, writer, results, ignored)

    def _check_queue(self) -> None:
        """Raises Refusal where the queue is full."""
        if self._entering >= self.engine.room:
            raise busy("the queue is full: come back later", seconds=RETRY)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """While a request whose body is here is prepared. Raises Refusal where the queue is full."""
        self._check_queue()
        self._entering += 1
        try:
            yield
        finally:
            self._entering -= 1

    def _counted(self, request: Request) -> AbstractAsyncContextManager[bytes]:
        """The body of a request whose tokens are only counted: fewer bytes."""
        limit = self._most_counted
        why = f", {COUNTED} for each token of the context" if limit == COUNTED * self.qwen.context else ""
        return self._uploads.body(request, limit=limit, why=why)

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
        check_prompts(ask, context=self.qwen.context, most=most, tokenizer=self.qwen.tokenizer)
        queue = self.engine.config
        if ask.rows > queue.max_queue + queue.max_batch:  # coming again would not help
            wanted = f"{ask.rows} answers at once: this server has room for"
            raise Refusal(f"{wanted} {queue.max_queue + queue.max_batch} (--max-queue)", param="n")
        return ask, ignored

    def _prepared(self, ask: Ask, form: Grammar | None, prefix: str) -> tuple[list[Row], Opening]:
        """What the engine gets, and what the answer begins with."""
        rows = make_rows(ask, self.engine.intake, form)
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
        firsts = rows[:: ask.n] if ask.echo and tokenizer else []  # the rows of one prompt lie side by side
        texts = [tokenizer.decode(row.ids[: row.num_prompt]) for row in firsts] if tokenizer else []
        return Opening(
            id=f"{prefix}{uuid.uuid4().hex}",
            model=self.config.name,
            created=int(time.time()),
            texts=[text for text in texts for _ in range(ask.n)],
            firsts=[row.ids[0] for row in rows],
            counts=[row.num_prompt for row in rows],
            ends=rows[0].sampler.end_ids,
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


def warning(ignored: list[str]) -> dict[str, str]:
    """The header in which a lenient server says what it left out."""
    if not ignored:
        return {}
    named = re.sub(r"[^\x20-\x7e]", "?", ", ".join(ignored))[:500]
    return {"x-ignored-fields": named}
