"""`pureqwen serve`: the model behind an HTTP API, OpenAI's and Anthropic's."""

import ipaddress
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from pureqwen.cli.errors import notice
from pureqwen.cli.options import MODEL, ModelOptions, flag
from pureqwen.config import EngineConfig, ServeConfig
from pureqwen.garbage import building

ACCESS = Group("Access", sort_key=3)
ENGINE = Group("Engine", sort_key=4)
INSTALL = "the server needs more packages: pip install 'pureqwen[serve]'"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Fields of EngineConfig as flags."""

    max_batch: Annotated[int, flag("Most requests that are computed at once.", ENGINE)] = (
        EngineConfig.max_batch
    )
    step_tokens: Annotated[int, flag("Most tokens of one step, over all requests.", ENGINE)] = (
        EngineConfig.step_tokens
    )
    cache_tokens: Annotated[
        int | None, flag("Tokens that the cache holds. [default: from the context and the memory]", ENGINE)
    ] = EngineConfig.cache_tokens
    max_queue: Annotated[int, flag("Most requests that wait; more are told to come back.", ENGINE)] = (
        EngineConfig.max_queue
    )
    prefix_caching: Annotated[
        bool, flag("Keep what was computed for a beginning, for whoever begins alike.", ENGINE)
    ] = EngineConfig.prefix_caching
    speculative: Annotated[int, flag("Most tokens drafted ahead from the text so far; 0 is off.", ENGINE)] = (
        EngineConfig.speculative
    )
    deterministic: Annotated[
        bool, flag("On CPUs, the same bits whatever else runs; slower.", ENGINE, negative="")
    ] = EngineConfig.deterministic

    def config(self) -> EngineConfig:
        """Checked. Raises ValueError."""
        return EngineConfig(
            max_batch=self.max_batch,
            step_tokens=self.step_tokens,
            cache_tokens=self.cache_tokens,
            max_queue=self.max_queue,
            prefix_caching=self.prefix_caching,
            speculative=self.speculative,
            deterministic=self.deterministic,
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """Who may ask."""

    api_key: Annotated[
        tuple[str, ...],
        flag("A key that clients must show. Repeatable.", ACCESS, negative="", show_default=False),
    ] = ()
    api_key_file: Annotated[Path | None, flag("A file with such keys, one a line.", ACCESS)] = None
    allowed_host: Annotated[
        tuple[str, ...],
        flag(
            "A name this server is reached by; * is any. Repeatable.", ACCESS, negative="", show_default=False
        ),
    ] = ()
    allowed_origin: Annotated[
        tuple[str, ...],
        flag(
            "A web page that may ask, as http://HOST:PORT. Repeatable.",
            ACCESS,
            negative="",
            show_default=False,
        ),
    ] = ()

    def keys(self) -> tuple[str, ...]:
        """All keys, those of the file too. Raises ValueError for a file without any."""
        if self.api_key_file is None:
            return self.api_key
        lines = [line.strip() for line in self.api_key_file.read_text(encoding="utf-8").splitlines()]
        found = tuple(line for line in lines if line)
        if not found:
            raise ValueError(f"{self.api_key_file} holds no key: write one a line")
        return (*self.api_key, *found)


def serve(
    model: Annotated[
        str, flag("A folder, a name on the hub such as Qwen/Qwen3-0.6B, pocket or pocket-moe.")
    ] = "pocket",
    /,
    *,
    host: Annotated[str, flag("The address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, flag("And the port; 0 takes a free one.")] = 8000,
    served_name: Annotated[str | None, flag("What requests call the model. [default: as here]")] = None,
    thinking: Annotated[
        bool | None, flag("Think where a request does not say. [default: the model's]")
    ] = None,
    lenient: Annotated[
        bool, flag("Accept fields that are not supported, and warn, instead of refusing them.", negative="")
    ] = False,
    max_prompt: Annotated[
        int | None, flag("Most tokens of a prompt. [default: what the context allows]")
    ] = ServeConfig.max_prompt,
    request_seconds: Annotated[float, flag("Most seconds of one request.")] = ServeConfig.request_seconds,
    drain: Annotated[float, flag("Seconds that running answers have when the server stops.")] = 30.0,
    log_json: Annotated[bool, flag("Log lines as JSON.", negative="")] = False,
    log_text: Annotated[bool, flag("Log prompts and answers too.", negative="")] = False,
    access: Annotated[AccessOptions, Parameter(name="*")] = AccessOptions(),
    engine: Annotated[EngineOptions, Parameter(name="*")] = EngineOptions(),
    dtype: Annotated[str, flag("auto, bfloat16 or float32.", MODEL)] = "auto",
    device: Annotated[str | None, flag("cuda, mps or cpu. [default: the first that is there]", MODEL)] = None,
    revision: Annotated[str | None, flag("A branch, tag or commit on the hub.", MODEL)] = None,
    context: Annotated[
        int | None, flag("Most tokens of prompt and answer together. [default: the model's]", MODEL)
    ] = None,
) -> None:
    """Serve a model over HTTP, as OpenAI and Anthropic do.

    Clients take http://127.0.0.1:8000/v1 as the base URL. Ctrl-C or SIGTERM lets running answers end first.
    """
    if drain < 0:
        raise ValueError(f"drain is {drain:g}: it must be at least 0")
    source = ModelOptions(model=model, dtype=dtype, device=device, revision=revision, context=context)
    config = ServeConfig(
        name=served_name or name_of(model),
        thinking=thinking,
        api_keys=access.keys(),
        hosts=(*access.allowed_host, host),
        origins=access.allowed_origin,
        lenient=lenient,
        log_text=log_text,
        max_prompt=max_prompt,
        request_seconds=request_seconds,
    )
    run(source, config, engine.config(), Place(host=host, port=port, drain=drain, log_json=log_json))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how the process runs."""

    host: str
    port: int
    drain: float
    log_json: bool


def run(source: ModelOptions, config: ServeConfig, engine_config: EngineConfig, place: Place) -> None:
    """Load the model and answer until a signal comes."""
    with building():
        parts = imported()
    bound = parts["listen"](
        place.host, place.port
    )  # before the model is loaded: a port in use is told at once
    try:
        qwen = source.load()
        engine = parts["Engine"](qwen, config=engine_config)
        parts["begin"](as_json=place.log_json)
        if not is_loopback(place.host) and not config.api_keys:
            notice(f"everybody who reaches {place.host} may use this server: set an --api-key")
        shown = f"[{place.host}]" if ":" in place.host else place.host
        url = f"http://{shown}:{bound.getsockname()[1]}/v1"
        app = parts["create_app"](engine, qwen, config)
        ready = partial(notice, f"{config.name} at {url}, Ctrl-C ends it")
        with parts["tuned"]():  # this process is ours
            parts["Server"](app, drain=place.drain, ready=ready).run(sockets=[bound])
    finally:
        bound.close()


def imported() -> dict[str, Any]:
    """The server's parts, which need the extra [serve]. Raises ValueError that names what to install."""
    try:
        from pureqwen.serve.engine import Engine
        from pureqwen.serve.http import create_app
        from pureqwen.serve.log import begin
        from pureqwen.serve.server import Server, listen, tuned
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pureqwen":
            raise
        raise ValueError(f"{INSTALL} ({error.name} is missing)") from error
    return {
        "Engine": Engine,
        "create_app": create_app,
        "begin": begin,
        "Server": Server,
        "listen": listen,
        "tuned": tuned,
    }


def name_of(model: str) -> str:
    """What a client calls the model: a folder by its own name, anything else as it was given."""
    return os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
