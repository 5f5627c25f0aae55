"""From what a caller gives to a row: encode it, fill in what is left open, refuse what can't be computed.

Precedence of the parameters, field by field: the caller's, then the mode's (a hybrid model whose thinking is
off), then generation_config.json's, then neutral ones. Nothing is truncated or clamped: what does not fit is
an error that says what would. Only max_tokens is an upper bound by nature; a full context ends the answer.
"""

import dataclasses
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from pureqwen.chat import ChatTemplate, Reply, ReplyOptions, thinking_mode
from pureqwen.config import NEUTRAL, NON_THINKING, ModelConfig, SamplingParams
from pureqwen.config.check import check_int, shown
from pureqwen.config.sampling import MAX_TOP_LOGPROBS
from pureqwen.generate.constrain import Constraint, Grammar
from pureqwen.generate.row import Budget, Row
from pureqwen.generate.sampling import Sampler
from pureqwen.tokenizer import FAR, Tokenizer

Messages: TypeAlias = Sequence[Mapping[str, Any]]
Prompt: TypeAlias = str | Sequence[int] | torch.Tensor
Tools: TypeAlias = Sequence[Mapping[str, Any]] | None

THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A conversation as the model reads it, before parameters are known: for one answer or several.

    options: how its answers are read. plain: it is answered without thinking by a model that can think.
    """

    ids: tuple[int, ...]
    options: ReplyOptions
    plain: bool


@dataclass(frozen=True, kw_only=True)
class Intake:
    """What turns prompts into rows, for one model.

    name: how errors call the model. context: most tokens of prompt and answer. eos_ids: the ids that end a
    text. cache_tokens: tokens that the cache holds which the rows are for; None: as many as they need.
    """

    name: str
    config: ModelConfig
    context: int
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    defaults: SamplingParams
    eos_ids: frozenset[int]
    cache_tokens: int | None = None

    @property
    def limit(self) -> int:
        """Most tokens of prompt and answer; the last one is not computed, so no cache has to hold it."""
        return self.context if self.cache_tokens is None else min(self.context, self.cache_tokens + 1)

    def text(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        constraint: Grammar | None = None,
        prompt_logprobs: int | None = None,
    ) -> Row:
        """Continue a text, whose control tokens are parsed, or ids; thinking is parted for a budget only.

        constraint: the form of what is written. prompt_logprobs: score the prompt's tokens too, with so many
        of the likeliest ones beside each, 0 to 20.
        """
        ids, params = self.ids(prompt), params.over(self.defaults)
        thinks = params.thinking_budget is not None
        inside = thinks and ChatTemplate.prompt_inside(self._need("a thinking budget"), ids)
        row = self._row(ids, params, ReplyOptions(raw=True, enabled=thinks, inside=inside), constraint)
        if prompt_logprobs is not None:
            row.ask_prompt_logprobs(check_int("prompt_logprobs", prompt_logprobs, high=MAX_TOP_LOGPROBS))
        return row

    def ids(self, prompt: Prompt) -> list[int]:
        """A text, whose control tokens are parsed, to ids; ids as they are."""
        if isinstance(prompt, str):
            return Bounded(self._need("text"), self).encode(prompt, allow_special=True)
        ids: Any = prompt
        if isinstance(prompt, torch.Tensor):
            if prompt.dim() == 0 or prompt.shape[:-1].numel() != 1:
                raise ValueError(
                    f"a prompt of ids has the shape (S,), not {tuple(prompt.shape)}: give several as a list"
                )
            ids = prompt.flatten().tolist()
        if not isinstance(ids, Sequence) or isinstance(ids, bytes | bytearray):
            raise ValueError(f"a prompt is a text or a list of token ids, not {type(prompt).__name__}")
        return list(ids)

    def chat(
        self,
        messages: Any,
        tools: Tools,
        thinking: bool | None,
        params: SamplingParams,
        *,
        constraint: Grammar | None = None,
    ) -> Row:
        """Answer messages, or one user's text, through the template; content makes no control token.

        constraint: the form of the answer; it begins after the thinking.
        """
        return self.answer(self.read(messages, tools, thinking), params, constraint=constraint)

    def read(self, messages: Any, tools: Tools, thinking: bool | None) -> Talk:
        """Messages, or one user's text, through the template to ids; content makes no control token."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        tokenizer, template = self._need("a chat"), self.template
        if template is None:
            raise ValueError(f"{self.name} has no chat template: use generate(), which continues a text")
        template.check_thinking(thinking)
        variables = {} if thinking is None else {"enable_thinking": thinking}
        messages = template.prepare(messages)
        ids = template.encode(Bounded(tokenizer, self), messages, tools=tools, **variables)
        options = ReplyOptions(
            inside=template.prompt_inside(tokenizer, ids),
            enabled=thinking is not False,
            style=template.tool_style if tools else None,
            tools=list(tools) if tools else None,
        )
        thinks = thinking_mode(messages, thinking, template)
        return Talk(ids=tuple(ids), options=options, plain=template.thinking == "hybrid" and not thinks)

    def answer(self, talk: Talk, params: SamplingParams, *, constraint: Grammar | None = None) -> Row:
        """One answer to a conversation that was read."""
        # A checkpoint whose file says greedy stays greedy: the mode's values are for those that sample.
        if talk.plain and self.defaults.temperature != 0:
            params = params.over(NON_THINKING)
        calls = "anywhere" if constraint is None else constraint.calls
        options = dataclasses.replace(talk.options, calls=calls)
        return self._row(list(talk.ids), params.over(self.defaults), options, constraint)

    def fit(self, row: Row) -> None:
        """A row that was made elsewhere ends where one that is made here does. Raises ValueError."""
        self.check_room(row.num_prompt)
        row.shorten(self.limit - row.num_prompt)

    def _constraint(self, grammar: Grammar | None, options: ReplyOptions) -> Constraint | None:
        """Where the model may think first, the tag that begins a thought is allowed before the grammar."""
        if grammar is None:
            return None
        able = options.raw or (self.template is not None and self.template.thinking != "never")
        thinks = options.enabled and able
        think = self._need("a constraint").token_id(THINK)
        return Constraint(grammar, opening=None if options.inside or not thinks else think, thinks=thinks)

    def _row(
        self, ids: list[int], params: SamplingParams, options: ReplyOptions, grammar: Grammar | None
    ) -> Row:
        params = params.over(NEUTRAL)
        self._check(ids, params)
        room = self.limit - len(ids)
        params = dataclasses.replace(params, max_tokens=min(params.max_tokens or room, room))
        ends = frozenset(params.stop_token_ids or ()) | (frozenset() if params.ignore_eos else self.eos_ids)
        ends = frozenset(end for end in ends if end < self.config.vocab_size)  # others never come
        budget = self._budget(params)
        return Row(
            ids,
            params=params,
            sampler=Sampler(
                params,
                prompt=ids,
                seed=secrets.randbits(48) if params.seed is None else params.seed,
                num_tokens=self.tokenizer.vocab_size if self.tokenizer else None,
                end_ids=ends,
            ),
            reply=Reply(
                self.tokenizer or Mute(),
                options=dataclasses.replace(
                    options, stop=params.stop_strings, min_tokens=params.min_tokens or 0, end_ids=ends
                ),
            ),
            text_of=self._text_of,
            budget=budget,
            constraint=self._constraint(grammar, options),
            closing=() if grammar is None and budget is None else self._closing(params, ends),
        )

    def _budget(self, params: SamplingParams) -> Budget | None:
        """The thinking budget with its closing sentence as ids: the tag in it is the control token."""
        if params.thinking_budget is None:
            return None
        tokenizer = self._need("a thinking budget")
        if tokenizer.token_id(END_THINK) is None:
            raise ValueError(
                f"{self.name} has no {END_THINK} token: there is no thinking to set a budget for"
            )
        assert params.thinking_end is not None and params.max_tokens is not None
        before = params.thinking_end.partition(END_THINK)[0]
        ending = (*tokenizer.encode(before), *self._closing(params))
        budget = Budget(tokens=params.thinking_budget, ending=ending)
        budget.check(params.max_tokens)
        return budget

    def _closing(self, params: SamplingParams, ends: Collection[int] = ()) -> tuple[int, ...]:
        """The tag that closes a thought and what follows it; nothing where the tag is to end the answer."""
        tokenizer = self._need("thinking")
        assert params.thinking_end is not None
        after, close = params.thinking_end.partition(END_THINK)[2], tokenizer.token_id(END_THINK)
        if close is None:
            return tuple(tokenizer.encode(END_THINK + after))
        return () if close in ends else (close, *tokenizer.encode(after))

    def _check(self, ids: Sequence[int], params: SamplingParams) -> None:
        """Refuse what can't be computed: no ids, too many, or ids that have no row in the embedding."""
        if not ids:
            raise ValueError("the prompt is empty: there is nothing to continue")
        self.check_room(len(ids))
        self._check_ids("the prompt", ids)
        self._check_ids("logit_bias", params.logit_bias or {})
        self._check_ids("stop_token_ids", params.stop_token_ids or ())

    def check_room(self, num_prompt: int, *, told: str = "") -> None:
        """Refuse a prompt that leaves no room for one token of an answer. told: what its number is."""
        if num_prompt >= self.context:
            raise ValueError(
                f"the prompt has {told}{num_prompt} tokens and the context holds {self.context}: nothing is "
                "left for an answer; shorten the prompt, or load the model with a larger context"
            )
        if num_prompt >= self.limit:
            raise ValueError(
                f"the prompt has {told}{num_prompt} tokens and the cache holds {self.cache_tokens}: shorten "
                "the prompt, or give the engine more cache_tokens (--cache-tokens)"
            )

    def _check_ids(self, place: str, ids: Iterable[int]) -> None:
        rows = self.config.vocab_size
        for token in ids:
            if type(token) is not int or not 0 <= token < rows:
                text = self._text_of(token) if type(token) is int and token >= 0 else ""
                raise ValueError(
                    f"{place} holds the token {shown(token)}{f' ({text!r})' if text else ''}, "
                    f"but {self.name} has rows for the ids 0 to {rows - 1} only"
                )

    def _text_of(self, token: int) -> str:
        return self.tokenizer.decode([token]) if self.tokenizer else ""

    def _need(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer.json: it can't do {what}; give ids to generate()")
        return self.tokenizer


class Bounded:
    """A tokenizer for the pieces of one prompt, that refuses what can't fit before it encodes it.

    How long that takes is bounded by the context, however long the prompt is.
    """

    def __init__(self, tokenizer: Tokenizer, intake: Intake) -> None:
        self._tokenizer, self._intake, self._num_ids = tokenizer, intake, 0

    @property
    def special_ids(self) -> Mapping[str, int]:
        return self._tokenizer.special_ids

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        room = self._intake.limit
        least = self._tokenizer.least(text, enough=room, allow_special=allow_special)
        if least or self._num_ids > FAR * room:
            self._intake.check_room(self._num_ids + least, told="at least ")
        ids = self._tokenizer.encode(text, allow_special)
        self._num_ids += len(ids)
        return ids


class Mute:
    """Stands for the tokenizer of a checkpoint that has none: ids go in and out, no text comes."""

    def stream(self) -> "Mute":
        return self

    def token_id(self, text: str, /) -> int | None:
        return None

    def push(self, token: int, /) -> str:
        return ""

    def finish(self) -> str:
        return ""
