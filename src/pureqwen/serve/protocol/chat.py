"""A request for /v1/chat/completions -> an Ask. Every field has an effect, is refused, or is listed here.

Accepted without effect: user, metadata, safety_identifier, prompt_cache_key, store (false), service_tier
(auto, default), modalities (text), stream_options.include_obfuscation (false), parallel_tool_calls where
tool_choice is none, the description and strict of a schema: it always holds.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from pureqwen.config import ServeConfig
from pureqwen.config.check import shown
from pureqwen.serve.protocol.ask import Ask, Form, check_parameters, forms_of, thoughts
from pureqwen.serve.protocol.body import BY_TYPE, Fields, Objects, Values
from pureqwen.serve.protocol.messages_in import Message, Tool, check_schema, plain_messages, plain_tools
from pureqwen.serve.protocol.refusal import Refusal
from pureqwen.serve.protocol.sampling import Count, Sampling, one_of, sampling_params


class StreamOptions(Fields):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class TemplateFields(Fields):
    """chat_template_kwargs: the one variable of a template that is a client's to set."""

    enable_thinking: bool | None = None


class NamedFunction(Fields):
    name: str


class NamedTool(Fields):
    type: Literal["function"]
    function: NamedFunction


class Allowed(Fields):
    mode: Literal["auto", "required"]
    tools: Annotated[Objects[NamedTool], Field(min_length=1)]


class AllowedTools(Fields):
    """Only these tools are shown."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowed


Choice = Annotated[
    Annotated[NamedTool, Tag("<function>")] | Annotated[AllowedTools, Tag("<allowed_tools>")], BY_TYPE
]


class PlainText(Fields):
    type: Literal["text"]


class JsonObject(Fields):
    type: Literal["json_object"]


class Schema(Fields):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: str | None = None
    definition: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchema(Fields):
    type: Literal["json_schema"]
    json_schema: Schema


class Regex(Fields):
    """Beyond OpenAI's: the whole answer matches a regular expression."""

    type: Literal["regex"]
    pattern: Annotated[str, Field(min_length=1)]


Format = Annotated[
    Annotated[PlainText, Tag("<text>")]
    | Annotated[JsonObject, Tag("<json_object>")]
    | Annotated[JsonSchema, Tag("<json_schema>")]
    | Annotated[Regex, Tag("<regex>")],
    BY_TYPE,
]


class WithoutEffect(Fields):
    """What OpenAI's clients send for OpenAI's books."""

    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class ChatRequest(Sampling, WithoutEffect):
    """The body of /v1/chat/completions."""

    model: str
    messages: Annotated[Objects[Message], Field(min_length=1)]
    tools: Objects[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: Count = 1
    logprobs: bool | None = None
    top_logprobs: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    chat_template_kwargs: TemplateFields | None = None
    modalities: Values[Literal["text"]] | None = None


def chat_ask(request: ChatRequest, config: ServeConfig) -> Ask:
    """What is asked for. Raises Refusal naming the field."""
    limit = one_of(
        request.max_completion_tokens, request.max_tokens, names=("max_completion_tokens", "max_tokens")
    )
    names = {} if request.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}
    thinking, effort, decided = thinking_of(request, config)
    tools = plain_tools(request.tools or (), config)
    for number, tool in enumerate(request.tools or ()):
        check_parameters(tool.function.parameters, param=f"tools[{number}].function.parameters.type")
    shown, calls, strict = chosen_tools(request, tools)
    wanted = form_of(request.response_format, config)
    form, later = forms_of(calls, wanted, tools=bool(shown), param="response_format")
    return Ask(
        model=request.model,
        params=sampling_params(
            request,
            config,
            names=names,
            max_tokens=limit,
            logprobs=request.logprobs,
            top_logprobs=top_logprobs(request, config),
            thinking_budget=request.thinking_budget,
        ),
        messages=plain_messages(request.messages),
        tools=shown,
        thinking=thinking,
        effort=effort,
        names=names if decided is None else {**names, "thinking": decided},
        n=request.n,
        form=form,
        later=later,
        parallel=request.parallel_tool_calls is not False,
        strict=strict,
        stream=request.stream,
        usage=wants_usage(request.stream, request.stream_options),
    )


def top_logprobs(request: ChatRequest, config: ServeConfig) -> int | None:
    """How many beside each token; they need logprobs."""
    count = request.top_logprobs
    if count is not None and not 0 <= count <= config.max_logprobs:
        raise Refusal(
            f"top_logprobs is {shown(count)}: it must be an integer from 0 to {config.max_logprobs}",
            param="top_logprobs",
        )
    if count and not request.logprobs:
        raise Refusal("top_logprobs needs logprobs: set it to true", param="top_logprobs")
    return count


def wants_usage(stream: bool, options: StreamOptions | None) -> bool:
    if options is not None and not stream:
        raise Refusal("stream_options is for streams: set stream, or leave it out", param="stream_options")
    return options is not None and options.include_usage


def thinking_of(request: ChatRequest, config: ServeConfig) -> tuple[bool | None, int | None, str | None]:
    """(whether to think, most tokens of it by reasoning_effort, the field that decided); Refusal where two
    fields disagree.
    """
    kwargs, effort = request.chat_template_kwargs, request.reasoning_effort
    said = {
        "enable_thinking": request.enable_thinking,
        "chat_template_kwargs.enable_thinking": kwargs.enable_thinking if kwargs else None,
        "reasoning_effort": None if effort is None else effort != "none",
        "thinking_budget": None if request.thinking_budget is None else True,
    }
    given = {name: value for name, value in said.items() if value is not None}
    if len(set(given.values())) > 1:
        off, on = (next(name for name, value in given.items() if value is wanted) for wanted in (False, True))
        raise Refusal(f"{off} turns the thinking off, {on} asks for it: leave one out", param=on)
    if effort not in (None, "none") and request.thinking_budget is not None:
        raise Refusal(
            "reasoning_effort and thinking_budget say the same: leave one out", param="reasoning_effort"
        )
    # A budget alone does not ask for thinking where the template's way is none.
    explicit = {name: value for name, value in given.items() if name != "thinking_budget"}
    thinking = next(iter(explicit.values()), config.thinking)
    if thinking is False and request.thinking_budget is not None:
        raise Refusal(
            "thinking_budget is set, but this server does not think unless asked: set enable_thinking too",
            param="thinking_budget",
        )
    return thinking, thoughts(effort), next(iter(explicit), None)


def chosen_tools(
    request: ChatRequest, tools: tuple[dict[str, Any], ...]
) -> tuple[tuple[dict[str, Any], ...], Form | None, tuple[str, ...]]:
    """(the tools that the template shows, what the answer must be, which of the tools are strict)."""
    choice = request.tool_choice
    if not tools:
        if choice not in (None, "none"):
            raise Refusal("tool_choice is set, but there are no tools", param="tool_choice")
        if request.parallel_tool_calls is not None:
            raise Refusal("parallel_tool_calls is set, but there are no tools", param="parallel_tool_calls")
        return (), None, ()
    if choice == "none":
        return (), None, ()
    if isinstance(choice, AllowedTools):
        tools, choice = named(tools, choice.allowed_tools.tools), choice.allowed_tools.mode
    marked = {tool.function.name for tool in request.tools or () if tool.function.strict}
    strict = tuple(name for tool in tools if (name := tool["function"]["name"]) in marked)
    if isinstance(choice, NamedTool):
        named(tools, [choice])
        return tools, Form(kind="tools", names=(choice.function.name,)), strict
    if choice == "required":
        return tools, Form(kind="tools"), strict
    return tools, Form(kind="strict", names=strict) if strict else None, strict


def named(tools: tuple[dict[str, Any], ...], chosen: list[NamedTool]) -> tuple[dict[str, Any], ...]:
    """Those of the tools that are named; Refusal for a name that none of them has."""
    known = {tool["function"]["name"] for tool in tools}
    names = [one.function.name for one in chosen]
    for name in names:
        if name not in known:
            raise Refusal(
                f"tool_choice names {name[:80]!r}, which is not among the tools", param="tool_choice"
            )
    return tuple(tool for tool in tools if tool["function"]["name"] in names)


def form_of(format: PlainText | JsonObject | JsonSchema | Regex | None, config: ServeConfig) -> Form | None:
    """What response_format demands."""
    match format:
        case JsonObject():
            return Form(kind="json_object")
        case JsonSchema(json_schema=Schema(definition=schema)):
            where = "response_format.json_schema.schema"
            if schema is None:
                raise Refusal(f"{where} is missing", param=where)
            check_schema(schema, config, param=where)
            return Form(kind="json_schema", schema=schema)
        case Regex(pattern=pattern):
            if len(json.dumps(pattern)) > config.max_schema:
                raise Refusal("response_format.pattern is too long", param="response_format.pattern")
            return Form(kind="regex", pattern=pattern)
        case _:
            return None
