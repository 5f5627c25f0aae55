"""Requests for /tokenize and /detokenize: text or a conversation to ids, and back."""

from typing import Annotated, Any

from pydantic import Field

from pureqwen.config import ServeConfig
from pureqwen.serve.protocol.ask import Ask
from pureqwen.serve.protocol.body import Fields, Objects, Values
from pureqwen.serve.protocol.messages_in import Message, Tool, plain_messages, plain_tools
from pureqwen.serve.protocol.refusal import Refusal
from pureqwen.serve.protocol.sampling import checked


class TokenizeRequest(Fields):
    """A prompt as /v1/completions would read it, or messages as /v1/chat/completions would."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[Objects[Message] | None, Field(min_length=1)] = None
    tools: Objects[Tool] | None = None
    enable_thinking: bool | None = None
    return_token_strs: bool = False


class DetokenizeRequest(Fields):
    """Ids to text."""

    model: str | None = None
    tokens: Values[Annotated[int, Field(ge=0, lt=2**31)]]


def tokenize_ask(request: TokenizeRequest, config: ServeConfig) -> Ask:
    """What the ids of are asked for. Raises Refusal."""
    if (request.prompt is None) == (request.messages is None):
        raise Refusal("give either a prompt or messages", param="prompt")
    if request.messages is None and (request.tools or request.enable_thinking is not None):
        raise Refusal("tools and enable_thinking are for messages", param="tools")
    prompts: tuple[Any, ...] | None = None if request.prompt is None else (request.prompt,)
    return Ask(
        model=request.model,
        params=checked({}),
        prompts=prompts,
        messages=plain_messages(request.messages or ()),
        tools=plain_tools(request.tools or (), config),
        thinking=config.thinking if request.enable_thinking is None else request.enable_thinking,
        echo=request.return_token_strs,
    )
