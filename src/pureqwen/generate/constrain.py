"""Answers of a given form: a grammar says, before each choice, which tokens may come next.

schema, regex, tools --Grammars--> Grammar --one row's--> Constraint --mask--> Sampler
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pureqwen.tokenizer import Tokenizer


class GrammarError(ValueError):
    """A schema, a pattern or a tool that no grammar can be made of, or whose grammar has failed."""


class Grammar:
    """A compiled grammar: what the rows that are to follow it share."""


class Grammars:
    """Makes the grammars of one tokenizer; the last ones are kept."""

    def __init__(self, tokenizer: Tokenizer, *, eos_ids: Collection[int]) -> None:
        self.tokenizer, self.eos_ids = tokenizer, sorted(eos_ids)

    def json_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """JSON that the schema allows. GrammarError names what is wrong with it."""
        raise NotImplementedError

    def json_object(self) -> Grammar:
        """Any JSON object."""
        raise NotImplementedError

    def regex(self, pattern: str) -> Grammar:
        """Text that the whole pattern matches. GrammarError names what is wrong with it."""
        raise NotImplementedError

    def tools(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        style: str,
        names: Sequence[str] | None = None,
        parallel: bool = True,
    ) -> Grammar:
        """A call of one of the tools, or several where they may be `parallel`; `names`: only of these."""
        raise NotImplementedError


class Constraint:
    """One row's place in its grammar."""

    def __init__(self, grammar: Grammar, *, opening: int | None = None) -> None:
        self.grammar, self.opening = grammar, opening

    def allowed(self, size: int) -> Tensor:
        """Which of `size` ids may come next: (size,) bool."""
        return torch.ones(size, dtype=torch.bool)

    def push(self, token: int) -> None:
        """The token was chosen."""
