"""A request for /v1/messages (Anthropic's) -> an Ask.

Where a request says nothing of thinking, the model does not think, if it can do without. Results of tools
stand in the order of their calls.

Accepted without effect: metadata, cache_control (what can be kept is kept anyway), service_tier (auto,
standard_only), a thinking block's signature, thinking.display "summarized" (thoughts are told whole), an
effort where there is no thinking.
Refused: images and documents, server tools, threads, a last message of the assistant's.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from pureqwen.config import ServeConfig
from pureqwen.serve.protocol.ask import Ask, Form, check_parameters, forms_of, thoughts
from pureqwen.serve.protocol.body import BY_TYPE, Fields, Objects, Values
from pureqwen.serve.protocol.messages_in import check_schema, placed, places
from pureqwen.serve.protocol.refusal import Refusal
from pureqwen.serve.protocol.sampling import checked, stops

NAME = r"^[A-Za-z0-9_.\-]{1,128}$"


class CacheControl(Fields):
    type: Literal["ephemeral"]
    ttl: str | None = None


class Cacheable(Fields):
    cache_control: CacheControl | None = None


class TextBlock(Cacheable):
    type: Literal["text"]
    text: str


class ThinkingBlock(Fields):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUse(Cacheable):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolResult(Cacheable):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Objects[TextBlock] | None = None
    is_error: bool | None = None


Said = Annotated[TextBlock, Tag("<text>")]
UserBlock = Annotated[Said | Annotated[ToolResult, Tag("<tool_result>")], BY_TYPE]
AssistantBlock = Annotated[
    Said | Annotated[ThinkingBlock, Tag("<thinking>")] | Annotated[ToolUse, Tag("<tool_use>")], BY_TYPE
]


class UserTurn(Fields):
    role: Literal["user"]
    content: str | Objects[UserBlock]


class AssistantTurn(Fields):
    role: Literal["assistant"]
    content: str | Objects[AssistantBlock]


Turn = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]


class AnthropicTool(Cacheable):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    strict: bool | None = None


class ToolChoice(Fields):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Fields):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class Metadata(Fields):
    user_id: str | None = None


class OutputFormat(Fields):
    type: Literal["json_schema"]
    definition: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Fields):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountRequest(Cacheable):
    """The body of /v1/messages/count_tokens."""

    model: str
    messages: Annotated[Objects[Turn], Field(min_length=1)]
    system: str | Objects[TextBlock] | None = None
    tools: Objects[AnthropicTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountRequest):
    """The body of /v1/messages."""

    max_tokens: int
    thread: Any = None
    stop_sequences: Values[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool = False
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


NAMES = {
    "stop": "stop_sequences",
    "thinking_budget": "thinking.budget_tokens",
    "response_format": "output_config.format",
}


def check_thread(thread: Any) -> None:
    """Raises Refusal for a conversation that a server would keep; Anthropic's client then sends it whole.

    A lenient server refuses it too: without what was said before, the next turn has no beginning.
    """
    if thread is not None:
        raise Refusal(
            "thread is not supported here: send the whole conversation",
            param="thread",
            code="unsupported_field",
            details={"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
        )


def messages_ask(request: CountRequest, config: ServeConfig) -> Ask:
    """What is asked for. Raises Refusal naming the field."""
    values: dict[str, Any] = {}
    if isinstance(request, MessagesRequest):
        check_thread(request.thread)
        values = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "stop": stops(request.stop_sequences, config, param="stop_sequences"),
        }
    thinking, budget = thinking_of(request.thinking, config)
    effort = effort_of(request, thinking)
    if effort is not None and budget is not None:  # whichever is less
        effort, budget = (effort, None) if effort < budget else (None, budget)
    tools, calls, parallel = tools_of(request, config)
    wanted = form_of(request, config)
    form, later = forms_of(calls, wanted, tools=bool(tools), param=NAMES["response_format"])
    return Ask(
        model=request.model,
        params=checked({**values, "thinking_budget": budget}, names=NAMES),
        messages=conversation(request),
        tools=tools,
        thinking=True if effort is not None else thinking,
        effort=effort,
        quiet=request.thinking is None and thinking is None,
        hidden=request.thinking is not None and request.thinking.display == "omitted",
        names={**NAMES, "thinking": decided_by(request, effort)},
        form=form,
        later=later,
        parallel=parallel,
        strict=tuple(tool.name for tool in request.tools or () if tools and tool.strict),
        stream=isinstance(request, MessagesRequest) and request.stream,
    )


def thinking_of(thinking: Thinking | None, config: ServeConfig) -> tuple[bool | None, int | None]:
    """(whether to think, most tokens of it)."""
    if thinking is None:
        return config.thinking, None
    if thinking.type == "enabled" and thinking.budget_tokens is None:
        raise Refusal("thinking is enabled, but budget_tokens is missing", param="thinking.budget_tokens")
    if thinking.type != "enabled" and thinking.budget_tokens is not None:
        raise Refusal("budget_tokens is for thinking that is enabled", param="thinking.budget_tokens")
    return {"enabled": True, "disabled": False, "adaptive": None}[thinking.type], thinking.budget_tokens


def effort_of(request: CountRequest, thinking: bool | None) -> int | None:
    """Most tokens of thinking by the effort: it limits thoughts that are made, and asks for none.

    Adaptive thinking is left to it: then it decides.
    """
    adaptive = request.thinking is not None and request.thinking.type == "adaptive"
    if request.output_config is None or not (adaptive or thinking):
        return None
    return thoughts(request.output_config.effort)


def decided_by(request: CountRequest, effort: int | None) -> str:
    """The field that decided whether to think."""
    adaptive = request.thinking is not None and request.thinking.type == "adaptive"
    return "output_config.effort" if adaptive and effort is not None else "thinking"


def form_of(request: CountRequest, config: ServeConfig) -> Form | None:
    """What output_config.format demands."""
    if request.output_config is None or request.output_config.format is None:
        return None
    schema = request.output_config.format.definition
    check_schema(schema, config, param="output_config.format.schema")
    return Form(kind="json_schema", schema=schema)


def tools_of(
    request: CountRequest, config: ServeConfig
) -> tuple[tuple[dict[str, Any], ...], Form | None, bool]:
    """(the tools that the template shows, what the answer must be, whether several may be called)."""
    choice = request.tool_choice or ToolChoice(type="auto")
    tools = request.tools or []
    names = [tool.name for tool in tools]
    if len(names) > config.max_tools or len(set(names)) < len(names):
        raise Refusal(f"tools must be at most {config.max_tools}, each with a name of its own", param="tools")
    for number, tool in enumerate(tools):
        check_schema(tool.input_schema, config, param=f"tools[{number}].input_schema")
        check_parameters(tool.input_schema, param=f"tools[{number}].input_schema.type")
    if (choice.type == "tool") != (choice.name is not None):
        raise Refusal('tool_choice has a name if its type is "tool", and only then', param="tool_choice.name")
    if (choice.type in ("any", "tool") and choice.name not in (None, *names)) or (
        choice.type == "any" and not tools
    ):
        raise Refusal("tool_choice asks for a tool that is not there", param="tool_choice")
    if choice.type == "none" or not tools:
        if choice.disable_parallel_tool_use is not None:
            raise Refusal(
                "disable_parallel_tool_use is set, but no tool may be called",
                param="tool_choice.disable_parallel_tool_use",
            )
        return (), None, True
    strict = tuple(tool.name for tool in tools if tool.strict)
    forms = {
        "any": Form(kind="tools"),
        "tool": Form(kind="tools", names=(choice.name or "",)),
        "auto": Form(kind="strict", names=strict) if strict else None,
    }
    shown = tuple({"type": "function", "function": _function(tool)} for tool in tools)
    return shown, forms[choice.type], not choice.disable_parallel_tool_use


def conversation(request: CountRequest) -> tuple[dict[str, Any], ...]:
    """The messages for the template: results of tools become messages of their own."""
    told: list[dict[str, Any]] = []
    calls: dict[str, int] = {}  # the places of the last ones, by their ids
    if request.system:
        told.append({"role": "system", "content": joined(request.system)})
    for number, turn in enumerate(request.messages):
        where = f"messages[{number}]"
        if isinstance(turn, UserTurn):
            told += user(turn, calls, where)
        else:
            told.append(assistant(turn))
            calls = places(block.id for block in turn.content if isinstance(block, ToolUse))
    if isinstance(request.messages[-1], AssistantTurn):
        raise Refusal(
            "the last message is the assistant's: an answer that is begun can't be continued here; "
            "end with a user's",
            param=f"messages[{len(request.messages) - 1}]",
        )
    return tuple(told)


def user(turn: UserTurn, calls: Mapping[str, int], where: str) -> list[dict[str, Any]]:
    """A user's turn: first the results of tools, in the order of the calls, then what the user says."""
    if isinstance(turn.content, str):
        return [{"role": "user", "content": turn.content}]
    results: list[tuple[int, ToolResult]] = []
    for number, block in enumerate(turn.content):
        if isinstance(block, ToolResult):
            at = f"{where}.content[{number}]"
            results.append((placed(block.tool_use_id, calls, where=at, field="tool_use_id"), block))
    results.sort(key=lambda item: item[0])
    texts = [block.text for block in turn.content if isinstance(block, TextBlock)]
    if not turn.content:
        raise Refusal(f"{where} has no content", param=f"{where}.content")
    told = [{"role": "tool", "content": outcome(block)} for _, block in results]
    return [*told, {"role": "user", "content": "\n".join(texts)}] if texts else told


def outcome(block: ToolResult) -> str:
    """What a tool gave; an error is called one."""
    text = joined(block.content or "")
    return f"Error: {text}" if block.is_error else text


def assistant(turn: AssistantTurn) -> dict[str, Any]:
    """An assistant's turn: its thought, its text, its calls; none of them where it was cut."""
    if isinstance(turn.content, str):
        return {"role": "assistant", "content": turn.content}
    thoughts = [block.thinking for block in turn.content if isinstance(block, ThinkingBlock)]
    texts = [block.text for block in turn.content if isinstance(block, TextBlock)]
    calls = [block for block in turn.content if isinstance(block, ToolUse)]
    told: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        told["reasoning_content"] = "\n".join(thoughts)
    if calls:
        told["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.input}} for call in calls
        ]
    return told


def joined(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def _function(tool: AnthropicTool) -> dict[str, Any]:
    told: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    return told if tool.description is None else {**told, "description": tool.description}
