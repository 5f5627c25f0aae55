"""The flags that several verbs share, as dataclasses: which model, and every sampling parameter.

The flags of `SamplingOptions` are the fields of SamplingParams, one for one (a test holds them together); a
value is checked there, not here. `PARSERS` reads the same fields from text, for the chat's /set.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from pureqwen.cli.terminal import stderr
from pureqwen.config import SamplingParams
from pureqwen.garbage import building

if TYPE_CHECKING:
    from pureqwen.qwen import Qwen

SMALL = 20_000_000  # parameters

MODEL = Group("Model", sort_key=1)
SAMPLING = Group(
    "Sampling", help="What is not set comes from the model's generation_config.json.", sort_key=2
)


def flag(text: str, group: Group | None = None, **names: Any) -> Any:
    """The Parameter of one flag: its help, its group, and what else cyclopts should know."""
    if group is not None:
        names["group"] = group
    if names.get("negative") == "":  # a switch that is off by default: nothing to say
        names["show_default"] = False
    return Parameter(help=text, **names)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is held."""

    model: Annotated[
        str,
        flag("A folder, a name on the hub such as Qwen/Qwen3-0.6B, pocket or pocket-moe.", MODEL, alias="-m"),
    ] = "pocket"
    dtype: Annotated[str, flag("auto, bfloat16 or float32.", MODEL)] = "auto"
    device: Annotated[str | None, flag("cuda, mps or cpu. [default: the first that is there]", MODEL)] = None
    revision: Annotated[str | None, flag("A branch, tag or commit on the hub.", MODEL)] = None
    context: Annotated[
        int | None, flag("Most tokens of prompt and answer together. [default: the model's]", MODEL)
    ] = None
    compile: Annotated[
        bool,
        flag(
            "Compile the steps of an answer: a start of some seconds, then quicker. Native code on a CPU is "
            "quicker still, and stays as it is.",
            MODEL,
            negative="",
        ),
    ] = False
    speculative: Annotated[
        int, flag("Most tokens guessed ahead: quicker where an answer repeats its prompt. 0 is off.", MODEL)
    ] = 0

    def load(self) -> "Qwen":
        """The model; on a terminal a line says that it is being loaded."""
        if self.speculative < 0:
            raise ValueError(f"--speculative is {self.speculative}: it must be at least 0")
        screen = stderr()
        if screen.movable:
            screen.write(f"loading {self.model} ...", dim=True)
        try:
            with building():
                from pureqwen.qwen import load  # brings torch

            qwen = load(
                self.model, dtype=self.dtype, device=self.device, revision=self.revision, context=self.context
            )
            spare_threads(qwen)
            qwen.speculative = self.speculative
            if self.compile:
                qwen.compile()
            return qwen
        finally:
            screen.erase_line()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The fields of SamplingParams as flags; None is not set."""

    temperature: Annotated[float | None, flag("0 is greedy; higher is more varied.", SAMPLING)] = None
    top_k: Annotated[int | None, flag("Keep the k likeliest tokens; 0 keeps all.", SAMPLING)] = None
    top_p: Annotated[
        float | None, flag("Keep the likeliest tokens that together reach this probability.", SAMPLING)
    ] = None
    min_p: Annotated[
        float | None, flag("Drop what is less likely than this share of the likeliest.", SAMPLING)
    ] = None
    repetition_penalty: Annotated[
        float | None, flag("Against tokens of prompt and answer; 1 is off.", SAMPLING)
    ] = None
    presence_penalty: Annotated[
        float | None, flag("Against tokens that the answer holds; 0 is off.", SAMPLING)
    ] = None
    frequency_penalty: Annotated[float | None, flag("The same, once for each time; 0 is off.", SAMPLING)] = (
        None
    )
    logit_bias: Annotated[
        tuple[str, ...] | None,
        flag("ID=VALUE: add VALUE to the logit of a token id. Repeatable.", SAMPLING, negative=""),
    ] = None
    seed: Annotated[int | None, flag("The same seed gives the same answer.", SAMPLING)] = None
    max_tokens: Annotated[
        int | None, flag("Most new tokens. [default: the rest of the context]", SAMPLING)
    ] = None
    min_tokens: Annotated[int | None, flag("No end of text before so many tokens.", SAMPLING)] = None
    stop: Annotated[
        tuple[str, ...] | None,
        flag(
            "End the answer before this text. Repeatable.", SAMPLING, negative="", allow_leading_hyphen=True
        ),
    ] = None
    stop_token_ids: Annotated[
        tuple[int, ...] | None, flag("End the answer at this token id. Repeatable.", SAMPLING, negative="")
    ] = None
    ignore_eos: Annotated[bool | None, flag("Go on after the end of text.", SAMPLING, negative="")] = None
    logprobs: Annotated[
        bool | None, flag("Log-probabilities of the tokens (in --json).", SAMPLING, negative="")
    ] = None
    top_logprobs: Annotated[int | None, flag("And of the likeliest ones, 0 to 20 (in --json).", SAMPLING)] = (
        None
    )
    thinking_budget: Annotated[
        int | None, flag("Most tokens of thinking; then the answer must follow.", SAMPLING)
    ] = None
    thinking_end: Annotated[str | None, flag("The text that ends the thinking at the budget.", SAMPLING)] = (
        None
    )

    def params(self) -> SamplingParams:
        """Checked. Raises ValueError naming field, value and allowed range."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.logit_bias is not None:
            values["logit_bias"] = parse_field("logit_bias", ",".join(self.logit_bias))
        return SamplingParams(**values)


def spare_threads(qwen: "Qwen") -> None:
    """One thread for a small model: its products are too short to be shared.

    Where another program uses the cores, threads that wait for one another at each product made the pocket
    fifty times slower (1 token/s instead of 50; two cores, load 6); on an idle machine they gain it nothing.
    """
    import torch

    if qwen.config.num_parameters() < SMALL:
        torch.set_num_threads(1)


def parse_bias(text: str) -> dict[int, float]:
    """ "15=-3,16=2.5" to {15: -3.0, 16: 2.5}."""
    biases = {}
    for item in text.split(","):
        id, _, value = item.partition("=")
        try:
            biases[int(id)] = float(value)
        except ValueError:
            raise ValueError("it must be ID=VALUE, such as 15=-3.5") from None
    return biases


def parse_bool(text: str) -> bool:
    known = {
        "true": True,
        "on": True,
        "yes": True,
        "1": True,
        "false": False,
        "off": False,
        "no": False,
        "0": False,
    }
    if text.lower() not in known:
        raise ValueError("it must be on or off")
    return known[text.lower()]


def parse_text(text: str) -> str:
    """A text as typed, or as a JSON string where it has quotes: "a\\n" holds a newline."""
    if text.startswith('"'):
        value = json.loads(text)
        assert isinstance(value, str)
        return value
    return text


def parse_stops(text: str) -> Any:
    """One text, or a JSON list of them."""
    return json.loads(text) if text.startswith("[") else parse_text(text)


PARSERS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        "temperature": float,
        "top_k": int,
        "top_p": float,
        "min_p": float,
        "repetition_penalty": float,
        "presence_penalty": float,
        "frequency_penalty": float,
        "logit_bias": parse_bias,
        "seed": int,
        "max_tokens": int,
        "min_tokens": int,
        "stop": parse_stops,
        "stop_token_ids": lambda text: tuple(int(id) for id in text.split(",")),
        "ignore_eos": parse_bool,
        "logprobs": parse_bool,
        "top_logprobs": int,
        "thinking_budget": int,
        "thinking_end": parse_text,
    }
)


def parse_field(name: str, text: str) -> Any:
    """The value of a parameter from its text; SamplingParams checks its range. "none" is not set.

    Raises ValueError naming the field, what was given and what would be right.
    """
    if text.lower() == "none":
        return None
    parser = PARSERS[name]
    try:
        return parser(text)
    except ValueError as error:
        kind = "a number" if parser is float else "an integer" if parser is int else None
        raise ValueError(f"{name} is {text}: {f'it must be {kind}' if kind else error}") from None
