"""What a caller gets for a prompt: the answer, how it ended, what it cost."""

from dataclasses import dataclass, field
from typing import Any

from pureqwen.chat import ToolCall


@dataclass(frozen=True, kw_only=True)
class Logprob:
    """The log-probability of one token of the output: log-softmax of the model's raw logits."""

    token_id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()  # the most likely tokens: id, text, log-probability
    forced: bool = False  # the token was not the model's choice: it closed the thinking


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens in and out: `cached_tokens` are a part of the prompt, the last two parts of the completion."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    forced_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds on the wall. A batch's rows share their time, so each row shows the whole."""

    time_to_first_token: float
    decode_seconds: float  # from the first token to the last
    prompt_tokens: int  # computed, not taken from the cache
    decode_tokens: int  # after the first

    @property
    def prompt_seconds(self) -> float:
        return self.time_to_first_token

    @property
    def prompt_tokens_per_second(self) -> float:
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """An answer. `text` is all that the model wrote; `reasoning`, `content` and `tool_calls` are its parts.

    finish_reason: "stop" (the model ended, or a stop string did), "tool_calls", "length" (max_tokens or the
    context), "interrupted" (Ctrl-C, or its constraint failed: `error` says why).
    """

    text: str
    reasoning: str | None
    content: str | None
    tool_calls: list[ToolCall] = field(default_factory=list)
    token_ids: list[int]
    finish_reason: str
    logprobs: list[Logprob] | None
    usage: Usage
    timings: Timings
    seed: int  # what the draws depended on: the same seed and prompt give the same answer
    prompt_logprobs: list[Logprob | None] | None = None  # of the prompt, where asked for; the first has none
    error: str | None = None  # what interrupted the answer, where its constraint did

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to append to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or ""}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return message

    def __str__(self) -> str:
        return self.content or ""
