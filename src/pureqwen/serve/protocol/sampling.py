"""The fields of a request that say how tokens are chosen -> SamplingParams.

OpenAI's own, and those that are common beside them: top_k, min_p, repetition_penalty, min_tokens, ignore_eos,
stop_token_ids. The ranges are SamplingParams'; how many stop strings and biases there may be is the server's.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from pureqwen.config import SamplingParams, ServeConfig
from pureqwen.serve.protocol.ask import renamed
from pureqwen.serve.protocol.body import Fields, Values
from pureqwen.serve.protocol.refusal import Refusal

Count = Annotated[int, Field(ge=1, lt=2**31)]  # how many answers; how many may be is the server's


class Sampling(Fields):
    """What chats and completions share; every field is optional."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | Values[str] | None = None
    stop_token_ids: Values[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None


# The fields that are SamplingParams' own under the same name.
SAME = (
    *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "seed", "min_tokens", "ignore_eos"),
)


def sampling_params(
    request: Sampling, config: ServeConfig, *, names: Mapping[str, str] | None = None, **others: Any
) -> SamplingParams:
    """The parameters of a request, checked; `others` are fields of SamplingParams, `names` as in `checked`.

    A negative seed, which other servers take, stands for the one 2**63 above it. Raises Refusal.
    """
    stop = [request.stop] if isinstance(request.stop, str) else request.stop
    values = {name: getattr(request, name) for name in SAME}
    values["stop"] = stops(stop, config, param="stop")
    values["stop_token_ids"] = stop_ids(request.stop_token_ids, config)
    values["logit_bias"] = biases(request.logit_bias, config)
    if request.seed is not None and -(2**63) <= request.seed < 0:
        values["seed"] = request.seed + 2**63
    return checked(values | others, names=names)


def checked(values: Mapping[str, Any], *, names: Mapping[str, str] | None = None) -> SamplingParams:
    """SamplingParams of these values. A refusal names the request's field: `names` where it is another."""
    try:
        return SamplingParams(**values)
    except ValueError as error:
        field = str(error).split(" ")[0].split("[")[0].removesuffix("'s")
        raise Refusal(renamed(str(error), names or {}), param=(names or {}).get(field, field)) from None


def stops(given: Sequence[str] | None, config: ServeConfig, *, param: str) -> tuple[str, ...] | None:
    """Stop strings, of which each answer makes an automaton with a node for every character."""
    if given is None:
        return None
    if len(given) > config.max_stops:
        raise Refusal(
            f"{param} has {len(given)} strings: at most {config.max_stops} are possible", param=param
        )
    size = sum(map(len, given))
    if size > config.max_stop_text:
        raise Refusal(
            f"{param} has {size} characters in all: at most {config.max_stop_text} are possible", param=param
        )
    return tuple(given)


def stop_ids(given: Sequence[int] | None, config: ServeConfig) -> tuple[int, ...] | None:
    """stop_token_ids, which are looked at with every token."""
    if given is not None and len(given) > config.max_stop_ids:
        raise Refusal(
            f"stop_token_ids has {len(given)} ids: at most {config.max_stop_ids} are possible",
            param="stop_token_ids",
        )
    return None if given is None else tuple(given)


def biases(given: Mapping[str, float] | None, config: ServeConfig) -> dict[int, float] | None:
    """logit_bias with its token ids as numbers: JSON's keys are texts."""
    if given is None:
        return None
    if len(given) > config.max_biases:
        raise Refusal(
            f"logit_bias has {len(given)} entries: at most {config.max_biases} are possible",
            param="logit_bias",
        )
    for key in given:
        digits = key.isascii() and key.isdigit() and len(key) < 10
        if not digits or key != str(int(key)):  # 07 beside 7 would hide one of the two
            raise Refusal(f"logit_bias has the key {key[:40]!r}: it must be a token id", param="logit_bias")
    return {int(key): bias for key, bias in given.items()}


def one_of(first: int | None, second: int | None, *, names: tuple[str, str]) -> int | None:
    """Two names of one thing: whichever is given; Refusal where they differ."""
    if first is not None and second is not None and first != second:
        raise Refusal(f"{names[0]} is {first} and {names[1]} is {second}: give only one", param=names[0])
    return second if first is None else first
