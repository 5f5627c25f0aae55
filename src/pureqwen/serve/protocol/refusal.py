"""What a client gets instead of an answer: one error, in OpenAI's shape or in Anthropic's.

    OpenAI     {"error": {"message", "type", "param", "code"}}
    Anthropic  {"type": "error", "error": {"type", "message", perhaps "details"}, "request_id"}

A 4xx is the client's mistake and says what would be right; a 5xx is ours and names no inner detail.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

OPENAI_TYPES: Mapping[int, str] = MappingProxyType({401: "authentication_error", 429: "rate_limit_error"})
ANTHROPIC_TYPES: Mapping[int, str] = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
)


class Refusal(ValueError):
    """A request that is not answered: the HTTP status, which field is to blame, and a name for the reason.

    `headers` are added to the response. Metrics count by `code`, so codes are few. `details` are what
    Anthropic's clients go by.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str = "invalid_value",
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers, self.details = dict(headers or {}), details

    @property
    def message(self) -> str:
        return str(self)

    def openai(self) -> dict[str, Any]:
        """As OpenAI's servers say it."""
        fallback = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = OPENAI_TYPES.get(self.status, fallback)
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }

    def anthropic(self, request_id: str | None = None) -> dict[str, Any]:
        """As Anthropic's servers say it; the field to blame stands in the message."""
        fallback = "api_error" if self.status >= 500 else "invalid_request_error"
        kind = ANTHROPIC_TYPES.get(self.status, fallback)
        error: dict[str, Any] = {"type": kind, "message": self.message}
        if self.details is not None:
            error["details"] = dict(self.details)
        body: dict[str, Any] = {"type": "error", "error": error}
        return body if request_id is None else {**body, "request_id": request_id}


def busy(message: str, *, seconds: int) -> Refusal:
    """429: come back later."""
    return Refusal(message, status=429, code="queue_full", headers={"Retry-After": str(seconds)})


def crowded(*, seconds: int) -> Refusal:
    """503: more connections are open than may be; this one is let go."""
    return Refusal(
        "too many connections are open: come back later",
        status=503,
        code="crowded",
        headers={"Retry-After": str(seconds), "Connection": "close"},
    )


def stopping() -> Refusal:
    """503: the server ends."""
    return Refusal(
        "the server is stopping: ask again when it is back",
        status=503,
        code="stopping",
        headers={"Retry-After": "10"},
    )


def crashed() -> Refusal:
    """500: the step that computed the answer failed; the log has the traceback."""
    return Refusal(
        "the model step that computed this request failed; the server's log says why",
        status=500,
        code="step_failed",
    )


def internal() -> Refusal:
    """500: anything else that is our mistake; the log has the traceback."""
    return Refusal("this is a mistake in the server; its log says more", status=500, code="internal")


def late(seconds: float) -> Refusal:
    """504: longer than a request may take. A client must not ask for the same again by itself."""
    return Refusal(
        f"the answer took longer than the {seconds:g} s that a request may take: ask for fewer tokens",
        status=504,
        code="request_timeout",
        headers={"x-should-retry": "false"},
    )
