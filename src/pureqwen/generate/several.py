"""One value for all prompts, or one for each: what the five-line API takes, made a list."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch

from pureqwen.config import SamplingParams
from pureqwen.generate.intake import Prompt


def merge(params: SamplingParams | None, fields: Mapping[str, Any]) -> SamplingParams:
    """`fields` by keyword over `params`; every key is checked."""
    known = {f.name for f in dataclasses.fields(SamplingParams)}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"unknown sampling parameter {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return SamplingParams(**fields).over(params or SamplingParams())


def each(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int, fields: Mapping[str, Any]
) -> list[SamplingParams]:
    """The parameters of each of `count` prompts."""
    if params is None or isinstance(params, SamplingParams):
        return [merge(params, fields)] * count
    if not isinstance(params, list | tuple) or not all(isinstance(one, SamplingParams) for one in params):
        raise ValueError(f"params is {params!r}: it must be a SamplingParams, or a list with one for each")
    if len(params) != count:
        raise ValueError(f"{len(params)} params for {count} prompts: give one for all, or one for each")
    return [merge(one, fields) for one in params]


def each_tools(tools: Any, count: int) -> list[Any]:
    """The tools of each of `count` conversations."""
    one_each = isinstance(tools, list | tuple) and all(
        t is None or isinstance(t, list | tuple) for t in tools
    )
    if not tools or not one_each:
        return [tools] * count
    if len(tools) != count:
        raise ValueError(
            f"{len(tools)} lists of tools for {count} conversations: give one for all, or one for each"
        )
    return list(tools)


def is_prompt(value: Any) -> TypeGuard[Prompt]:
    """Whether this is one prompt: a text, or ids."""
    if isinstance(value, str | torch.Tensor):
        return True
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], int)
