"""SamplingParams: how the next token is chosen, and when to stop.

Every field is None by default, which means "not set": `user.over(mode).over(file).over(NEUTRAL)` fills what
the user left open from the mode, then from the checkpoint's generation_config.json, then from the neutral
values. So a value that somebody did set is never overridden by a default, and `temperature=0` stays greedy
on a model whose file says 0.6.

The order in which the fields are applied is generate/sampling's: masks and logit_bias, repetition, presence
and frequency penalty, temperature, top_k, top_p (Holtzman et al. 2019), min_p (Nguyen et al. 2024), the
draw.

What it does not do: it knows no model and no tokenizer. Whether an id exists, whether a budget fits
max_tokens, and what the end-of-text ids are is checked where the model is known (`eos_ids` reads them from
the files' contents).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pureqwen.config.check import check_bool, check_float, check_ids, check_int, check_text, refuse, shown

if TYPE_CHECKING:
    from pureqwen.config.model import ModelConfig

# What Qwen's technical report (section 4.3) writes where the budget ends; `</think>` is sent as the control
# token.
THINKING_END = (
    "\n\nConsidering the limited time by the user, "
    "I have to give the solution based on the thinking directly now.\n</think>\n\n"
)
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """What one prompt asks of the sampler. None means "not set" in every field.

    temperature         0 is greedy, else 1e-6 to 1e6; the logits are divided by it
    top_k               keep the k most likely tokens; 0 keeps all
    top_p               keep the smallest set whose probability reaches it, in (0, 1]
    min_p               drop what is less likely than min_p times the most likely, in [0, 1]
    repetition_penalty  over tokens of prompt and output; 1 is off, 0.01 to 100
    presence_penalty, frequency_penalty   over tokens of the output; 0 is off, -2 to 2
    logit_bias          token id -> added to its raw logit, -100 to 100
    seed                0 to 2**63 - 1; the draw at a position depends on (seed, position) alone
    max_tokens          upper bound of new tokens, at least 1; not set: the rest of the context
    min_tokens          no end of text and no stop string before so many new tokens
    stop                a string or several: the answer (not the reasoning) ends before the first that appears
    stop_token_ids      token ids that end the answer, besides the model's own
    ignore_eos          go on after the end of text
    logprobs            log-probabilities of the chosen tokens
    top_logprobs        and of the 0 to 20 most likely ones; more than 0 implies logprobs
    thinking_budget     most tokens inside the thinking; 0 closes it at once
    thinking_end        the text that is forced at the budget; it holds one `</think>`

    Raises ValueError, naming field, value and allowed range.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = field(default=None, hash=False)
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    thinking_budget: int | None = None
    thinking_end: str | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(name, value))
        if self.top_logprobs and self.logprobs is None:
            object.__setattr__(self, "logprobs", True)
        if self.top_logprobs and self.logprobs is False:
            raise ValueError(
                f"top_logprobs is {self.top_logprobs} but logprobs is False: drop one of the two"
            )
        if self.min_tokens is not None and self.max_tokens is not None and self.min_tokens > self.max_tokens:
            refuse("min_tokens", self.min_tokens, f"at most max_tokens, {shown(self.max_tokens)}")

    def over(self, lower: SamplingParams) -> SamplingParams:
        """This, with the fields that are not set taken from `lower`."""
        chosen: dict[str, Any] = {name: _first(getattr(self, name), getattr(lower, name)) for name in _CHECKS}
        if self.logprobs is False:
            chosen["top_logprobs"] = (
                self.top_logprobs or 0
            )  # who turns them off turns the lower's count off too
        if self.min_tokens is None and chosen["min_tokens"] is not None and self.max_tokens is not None:
            chosen["min_tokens"] = min(chosen["min_tokens"], self.max_tokens)  # who wants less gets less
        return SamplingParams(**chosen)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple, empty when not set."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @classmethod
    def from_generation_config(cls, generation_config: Mapping[str, Any] | None) -> SamplingParams:
        """What a checkpoint's generation_config.json sets; None (no file) sets nothing.

        As in transformers, a file without "do_sample": true means greedy, whatever its temperature says.
        Keys that are no sampling parameter are left alone; the end-of-text ids are `eos_ids`'s.
        """
        if generation_config is None:
            return cls()
        fields = {name: generation_config.get(key) for key, name in _GENERATION_KEYS.items()}
        do_sample = generation_config.get("do_sample")
        if do_sample is None or not check_bool("do_sample in generation_config.json", do_sample):
            fields.update(temperature=0.0, top_k=None, top_p=None, min_p=None)
        try:
            return cls(**fields)
        except ValueError as error:
            raise ValueError(f"generation_config.json: {error}") from error


def eos_ids(generation_config: Mapping[str, Any] | None, config: ModelConfig) -> frozenset[int]:
    """The token ids that end a text: generation_config.json's where it names any, else config.json's.

    The two files may differ (instruct models list end of turn and end of text in the first, one of them in
    the second).
    """
    found = (generation_config or {}).get("eos_token_id")
    if found is None:
        found = config.eos_token_id
    if found is None:
        return frozenset()
    return frozenset(check_ids("eos_token_id", found if isinstance(found, list | tuple) else [found]))


def _first(upper: Any, lower: Any) -> Any:
    return lower if upper is None else upper


def _temperature(name: str, value: Any) -> float:
    number = check_float(name, value, low=0.0, high=1e6)
    if 0.0 < number < 1e-6:  # the division would overflow float32
        refuse(name, value, "0 (greedy) or a number from 1e-06 to 1e+06")
    return number


def _logit_bias(name: str, value: Any) -> Mapping[int, float]:
    if not isinstance(value, Mapping):
        refuse(name, value, "a mapping from token id to a number from -100 to 100")
    return {
        check_int(f"{name}'s token id", id): check_float(f"{name}[{id!r}]", bias, low=-100.0, high=100.0)
        for id, bias in value.items()
    }


def _stop(name: str, value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return check_text(name, value)
    if not isinstance(value, list | tuple):
        refuse(name, value, "a string or a list of strings")
    return tuple(check_text(f"{name}[{i}]", item) for i, item in enumerate(value))


def _thinking_end(name: str, value: Any) -> str:
    text = check_text(name, value)
    if text.count("</think>") != 1:
        refuse(name, value, "a text that holds </think> once, which closes the thinking")
    return text


_Check = Callable[[str, Any], Any]
_CHECKS: Mapping[str, _Check] = MappingProxyType(
    {
        "temperature": _temperature,
        "top_k": check_int,
        "top_p": lambda name, value: check_float(name, value, low=0.0, high=1.0, above=True),
        "min_p": lambda name, value: check_float(name, value, low=0.0, high=1.0),
        "repetition_penalty": lambda name, value: check_float(name, value, low=0.01, high=100.0),
        "presence_penalty": lambda name, value: check_float(name, value, low=-2.0, high=2.0),
        "frequency_penalty": lambda name, value: check_float(name, value, low=-2.0, high=2.0),
        "logit_bias": _logit_bias,
        "seed": lambda name, value: check_int(name, value, high=2**63 - 1),
        "max_tokens": lambda name, value: check_int(name, value, low=1),
        "min_tokens": check_int,
        "stop": _stop,
        "stop_token_ids": check_ids,
        "ignore_eos": check_bool,
        "logprobs": check_bool,
        "top_logprobs": lambda name, value: check_int(name, value, high=MAX_TOP_LOGPROBS),
        "thinking_budget": check_int,
        "thinking_end": _thinking_end,
    }
)
assert set(_CHECKS) == {f.name for f in dataclasses.fields(SamplingParams)}

_GENERATION_KEYS = MappingProxyType(
    {
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "repetition_penalty",
        "max_new_tokens": "max_tokens",
        "min_new_tokens": "min_tokens",
        "stop_strings": "stop",
    }
)

NEUTRAL = SamplingParams(
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    logit_bias={},
    min_tokens=0,
    stop=(),
    stop_token_ids=(),
    ignore_eos=False,
    logprobs=False,
    top_logprobs=0,
    thinking_end=THINKING_END,
)
# Qwen's model card for the hybrid models with thinking turned off; their generation_config.json is for
# thinking.
NON_THINKING = SamplingParams(temperature=0.7, top_p=0.8, top_k=20)


def read_generation_config(folder: Path) -> dict[str, Any] | None:
    """generation_config.json of a checkpoint; None where there is none."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content
