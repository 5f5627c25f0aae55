"""`pureqwen generate`: one prompt, one answer on standard output, as it is made."""

import dataclasses
import json as json_lines
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pureqwen.cli.errors import notice
from pureqwen.cli.options import ModelOptions, SamplingOptions, flag
from pureqwen.cli.page import Page
from pureqwen.cli.prompt import read_prompt
from pureqwen.cli.terminal import stdout
from pureqwen.cli.tools import check_place, read_json, read_tools

if TYPE_CHECKING:
    from collections.abc import Callable

    from pureqwen.generate import Grammar, Result
    from pureqwen.qwen import Qwen, Stream


def generate(
    prompt: Annotated[str | None, flag("The prompt. What is piped in stands before it.")] = None,
    /,
    *,
    file: Annotated[
        Path | None,
        flag("Read the prompt from a file; - is standard input.", alias="-f", allow_leading_hyphen=True),
    ] = None,
    system: Annotated[str | None, flag("The system message.", allow_leading_hyphen=True, alias="-s")] = None,
    thinking: Annotated[bool | None, flag("Let the model think first. [default: the model's]")] = None,
    show_thinking: Annotated[
        bool, flag("Print the thinking too, between <think> tags.", negative="")
    ] = False,
    raw: Annotated[
        bool,
        flag("Continue the text as it is, without the chat template; control tokens count.", negative=""),
    ] = False,
    json: Annotated[bool, flag("One JSON object with all there is to know.", negative="")] = False,
    tools: Annotated[Path | None, flag("A JSON file with function definitions.")] = None,
    json_schema: Annotated[
        Path | None, flag("A file with a JSON schema: the answer is JSON that it allows.")
    ] = None,
    regex: Annotated[
        str | None,
        flag("The answer is a text that this regular expression matches, whole.", allow_leading_hyphen=True),
    ] = None,
    source: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),  # noqa: B008
    sampling: Annotated[SamplingOptions, Parameter(name="*")] = SamplingOptions(),  # noqa: B008
) -> None:
    """Answer one prompt.

    The prompt is sent as one user turn through the model's chat template, where it has one. Standard output
    carries only the answer; everything else goes to standard error.
    """
    chat_only = {"--system": system, "--thinking": thinking, "--tools": tools}
    given = [name for name, value in chat_only.items() if value is not None]
    if raw and given:
        raise ValueError(f"{given[0]} is for a chat: it means nothing to a text that is continued (--raw)")
    params, definitions = sampling.params(), None if tools is None else read_tools(tools)
    if params.logprobs and not json:
        raise ValueError("log-probabilities are shown with --json only: add it, or leave --logprobs out")
    form = read_form(json_schema, regex)
    text = read_prompt(prompt, file)
    qwen = source.load()
    raw = raw or qwen.template is None
    if raw and given:
        raise ValueError(f"{qwen.name} has no chat template, so {given[0]} can't reach it")
    if definitions:
        check_place(qwen, definitions)
    request: Any = text if raw else conversation(text, system)
    grammar = None if form is None else form(qwen)
    stream = qwen.stream(request, definitions, thinking, params, constraint=grammar)
    answer(stream, qwen, as_json=json, show_thinking=show_thinking)


def read_form(schema: Path | None, regex: str | None) -> "Callable[[Qwen], Grammar] | None":
    """What makes the grammar of the answer, once the model is there; ValueError for two of them."""
    if schema is not None and regex is not None:
        raise ValueError("the answer has one form: give --json-schema or --regex, not both")
    if schema is not None:
        value = read_json(schema)
        return lambda qwen: qwen.grammars.json_schema(value)
    return None if regex is None else lambda qwen: qwen.grammars.regex(regex)


def conversation(text: str, system: str | None) -> list[dict[str, Any]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def answer(stream: "Stream", qwen: "Qwen", *, as_json: bool, show_thinking: bool) -> None:
    """Print the events of a stream; after Ctrl-C what there is, and the interruption is raised again."""
    page = Page(stdout(), thinking="show" if show_thinking else "hide")
    interrupted = False
    try:
        for event in stream:
            if not as_json:
                page.show(event)
    except KeyboardInterrupt:
        stream.close()
        interrupted = True
    result = stream.result
    if as_json:
        print(json_lines.dumps(as_plain(result, qwen.name), ensure_ascii=False, indent=2, allow_nan=False))
    else:
        page.end(result)
        remark(result)
    if interrupted:
        raise KeyboardInterrupt


def remark(result: "Result") -> None:
    """What a reader of the answer should know: it was cut, or there is none."""
    if result.error is not None:
        notice(result.error)
    if result.finish_reason != "length":
        return
    count = result.usage.completion_tokens
    if result.reasoning is not None and not result.content and not result.tool_calls:
        notice(
            f"no answer: the thinking took all {count} tokens that there were; raise --max-tokens, "
            "or give the thinking a --thinking-budget"
        )
    else:
        notice(f"the answer was cut after {count} tokens, at --max-tokens or the end of the context")


def as_plain(result: "Result", model: str) -> dict[str, Any]:
    """A Result as JSON can hold it: all of its fields, its message, and the speeds."""
    fields: dict[str, Any] = {"model": model} | finite(dataclasses.asdict(result))
    fields["message"] = result.message
    fields["usage"]["total_tokens"] = result.usage.total_tokens
    fields["timings"]["tokens_per_second"] = result.timings.tokens_per_second
    fields["timings"]["prompt_tokens_per_second"] = result.timings.prompt_tokens_per_second
    return fields


def finite(value: Any) -> Any:
    """JSON has no infinity (the log-probability of a token that can't be): null stands for it."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
