"""What a request comes to, whichever protocol it came by: what the engine is asked for.

An `Ask` knows no tokenizer and no model; serve/prepare.py makes rows of it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pureqwen.config import SamplingParams, ServeConfig
from pureqwen.config.serving import EFFORTS
from pureqwen.serve.protocol.refusal import Refusal


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the answer must look like: any JSON object, JSON of a schema, a regular expression, tool calls.

    Where tools are shown, calls of them may come in the place of the JSON. kind "tools": at least one call of
    one of the tools `names` (None: of any). kind "strict": what the model wants, but calls of the tools
    `names` fit their schemas.
    """

    kind: Literal["json_object", "json_schema", "regex", "tools", "strict"]
    schema: Mapping[str, Any] = field(default_factory=dict)
    pattern: str = ""
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Answers wanted: `n` to each prompt, or to one conversation.

    prompts: texts or ids that are continued; None for a chat. tools: what the template shows. effort: most
    tokens of thinking, at most half of the room; params.thinking_budget likewise, but of all the room that
    leaves an answer. quiet: nobody asked for thinking, and a model that can do without does. hidden: thoughts
    are made, and not told. later: a form that calls go before, which must be one all the same. parallel:
    whether one answer may call several tools. strict: the tools whose schemas hold in every keyword; those
    of others may say what no grammar can hold. names: what the request calls parameters that have another
    name here; for "thinking", the field that decided it. echo: the prompt is a part of the answer.
    score_prompt: with the log-probabilities of its tokens. answerless: nothing but the prompt is wanted.
    """

    model: str | None
    params: SamplingParams
    prompts: tuple[str | list[int], ...] | None = None
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool | None = None
    effort: int | None = None
    quiet: bool = False
    hidden: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    n: int = 1
    form: Form | None = None
    later: Form | None = None
    parallel: bool = True
    strict: tuple[str, ...] = ()
    echo: bool = False
    score_prompt: bool = False
    answerless: bool = False
    stream: bool = False
    usage: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows it makes."""
        return self.n * (1 if self.prompts is None else len(self.prompts))

    def params_of(self, choice: int) -> SamplingParams:
        """Those of one of the n answers: with a seed, each draws by a seed of its own."""
        if choice == 0 or self.params.seed is None:
            return self.params
        return replace(self.params, seed=(self.params.seed + choice) % 2**63)


def forms_of(
    calls: Form | None, wanted: Form | None, *, tools: bool, param: str
) -> tuple[Form | None, Form | None]:
    """(Ask's form, its later one), of what is said of calls and, in the field `param`, of the answer.

    Calls that must come go before; those that may come stand beside an answer of JSON.
    """
    if calls is not None and calls.kind == "tools":
        return calls, wanted
    if wanted is not None and wanted.kind == "regex" and tools:
        raise Refusal(
            "a regular expression and tools that may be called exclude one another: "
            'set tool_choice to "none", or leave one out',
            param=param,
        )
    return wanted or calls, None


def check_parameters(schema: Mapping[str, Any] | None, *, param: str) -> None:
    """Refuse parameters of a tool that are no object: no call could hold them."""
    if schema is not None and schema.get("type", "object") != "object":
        raise Refusal(f'{param} must be "object", or left out: the arguments of a call are one', param=param)


def thoughts(effort: str | None) -> int | None:
    """Most tokens of thinking by an effort; what is beyond high is high."""
    return EFFORTS.get("high" if effort in ("xhigh", "max") else effort or "")


def renamed(text: str, names: Mapping[str, str]) -> str:
    """What is wrong with parameters, told in the names that the request has for them."""
    return re.sub(r"[a-z_]+", lambda word: names.get(word[0], word[0]), text)


def check_model(ask: Ask, config: ServeConfig) -> None:
    """404 where another model is asked for than the one there is."""
    if ask.model is not None and ask.model != config.name:
        raise no_model(ask.model, config)


def no_model(name: str, config: ServeConfig) -> Refusal:
    return Refusal(
        f"there is no model {name[:200]!r} here: ask for {config.name!r}",
        status=404,
        param="model",
        code="model_not_found",
    )


def check_rows(ask: Ask, config: ServeConfig) -> None:
    """Refuse more answers than one request may have."""
    if ask.rows > config.max_rows:
        counted = "n" if ask.prompts is None else "n times the number of prompts"
        raise Refusal(f"{counted} is {ask.rows}: it must be at most {config.max_rows}", param="n")
