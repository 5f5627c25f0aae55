"""ServeConfig: whom the server answers, what it is called, and how much one request may ask for.

What a request may cost is bounded here before anything is computed: bytes of its body, answers, stop strings,
schemas, seconds. How many requests are computed at once, and how many may wait, is EngineConfig's. It imports
no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pureqwen.config.check import check_bool, check_float, check_int, check_text, refuse

# reasoning_effort -> most tokens of thinking; never more than half of the room that is left for the answer.
EFFORTS: Mapping[str, int] = MappingProxyType({"minimal": 128, "low": 512, "medium": 2048, "high": 8192})

COUNTS = (  # fields that must be at least 1
    *("max_body", "max_rows", "max_stops", "max_stop_text", "max_stop_ids"),
    *("max_biases", "max_tools", "max_schema"),
)
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")  # also those of extensions and of applications


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The settings of one server.

    name                what the model is called in requests and answers
    thinking            whether the model thinks where a request does not say; None: the template's default
    api_keys            who shows one of them may ask; none: everybody may
    hosts               names that a Host header may hold, besides localhost and IP addresses; "*": any
    origins             web pages that may ask ("http://localhost:3000", "chrome-extension://..."); none: no
                        other page may
    lenient             accept unsupported fields, and warn, instead of refusing them
    log_text            write prompts and answers into the log
    max_body            bytes of a request
    max_prompt          tokens of a prompt; None: what the context allows
    max_rows            answers of one request: n times the number of prompts
    max_stops           stop strings of a request
    max_stop_text       characters of all its stop strings together
    max_stop_ids        entries of stop_token_ids
    max_biases          entries of logit_bias
    max_logprobs        log-probabilities per token, at most 20
    max_tools           tools of a request
    max_schema          bytes of a JSON schema or a regular expression
    head_seconds        a client that takes longer for a request's head is cut off
    request_seconds     most seconds from a request's arrival to the end of its answer
    keepalive_seconds   silence after which a stream gets a comment
    stall_seconds       a reader that takes nothing for so long is cut off

    Raises ValueError naming the field, what it was and what it must be.
    """

    name: str = "pocket"
    thinking: bool | None = None
    api_keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    lenient: bool = False
    log_text: bool = False
    max_body: int = 4 * 1024 * 1024
    max_prompt: int | None = None
    max_rows: int = 16
    max_stops: int = 16
    max_stop_text: int = 4096
    max_stop_ids: int = 64
    max_biases: int = 1024
    max_logprobs: int = 20
    max_tools: int = 128
    max_schema: int = 64 * 1024
    head_seconds: float = 20.0
    request_seconds: float = 600.0
    keepalive_seconds: float = 15.0
    stall_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_text("name", self.name)
        for field in ("lenient", "log_text"):
            check_bool(field, getattr(self, field))
        if self.thinking is not None:
            check_bool("thinking", self.thinking)
        for field in COUNTS:
            check_int(field, getattr(self, field), low=1)
        if self.max_prompt is not None:
            check_int("max_prompt", self.max_prompt, low=1)
        check_int("max_logprobs", self.max_logprobs, high=20)
        for field in ("head_seconds", "request_seconds", "keepalive_seconds", "stall_seconds"):
            check_float(field, getattr(self, field), low=0, above=True)
        for key in self.api_keys:
            if (
                not isinstance(key, str)
                or not key.isascii()
                or not key.isprintable()
                or " " in key
                or not key
            ):
                raise ValueError("an API key must be printable ASCII without blanks, and not empty")
        for host in self.hosts:
            check_text("hosts", host)
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                refuse(
                    "origins", origin, 'a scheme, a host and perhaps a port, such as "http://localhost:3000"'
                )

    @property
    def salted(self) -> bool:
        """With several keys nobody may find out, by timing, what another one's prompts begin with."""
        return len(self.api_keys) > 1
