"""A request for /v1/completions -> an Ask: texts or ids, continued as they are; control tokens in them count.

max_tokens is 16 where it is not given, as in OpenAI's definition. With `echo` it may be 0: only the prompt is
wanted, for its log-probabilities. suffix and best_of are refused.
"""

from typing import Annotated

from pydantic import Field

from pureqwen.config import ServeConfig
from pureqwen.config.check import shown
from pureqwen.serve.protocol.ask import Ask
from pureqwen.serve.protocol.body import Values
from pureqwen.serve.protocol.chat import Format, StreamOptions, WithoutEffect, form_of, wants_usage
from pureqwen.serve.protocol.refusal import Refusal
from pureqwen.serve.protocol.sampling import Count, Sampling, sampling_params

MAX_TOKENS = 16


class CompletionRequest(Sampling, WithoutEffect):
    """The body of /v1/completions."""

    model: str
    prompt: str | Values[str] | Values[int] | Values[Values[int]]
    max_tokens: Annotated[int, Field(ge=0)] = MAX_TOKENS
    n: Count = 1
    logprobs: int | None = None
    echo: bool = False
    response_format: Format | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None


def completion_ask(request: CompletionRequest, config: ServeConfig) -> Ask:
    """What is asked for. Raises Refusal naming the field."""
    count = request.logprobs
    if count is not None and not 0 <= count <= config.max_logprobs:
        raise Refusal(
            f"logprobs is {shown(count)}: it must be an integer from 0 to {config.max_logprobs}",
            param="logprobs",
        )
    if request.max_tokens == 0 and not request.echo:
        raise Refusal("max_tokens is 0: it must be at least 1 without echo", param="max_tokens")
    return Ask(
        model=request.model,
        prompts=prompts_of(request.prompt),
        params=sampling_params(
            request,
            config,
            max_tokens=max(request.max_tokens, 1),
            logprobs=None if count is None else True,
            top_logprobs=count,
        ),
        n=request.n,
        form=form_of(request.response_format, config),
        echo=request.echo,
        score_prompt=request.echo and count is not None,
        answerless=request.max_tokens == 0,
        stream=request.stream,
        usage=wants_usage(request.stream, request.stream_options),
    )


def prompts_of(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[str | list[int], ...]:
    """One prompt or several, as several."""
    if isinstance(prompt, str):
        return (prompt,)
    if not prompt:
        raise Refusal("prompt is empty: there is nothing to continue", param="prompt")
    if all(isinstance(item, int) for item in prompt):
        return ([item for item in prompt if isinstance(item, int)],)
    return tuple(item for item in prompt if not isinstance(item, int))
