"""One prompt on its way to an answer: its ids, its sampler, its reply, and the queue of tokens forced on it.

ids   [ p p p p p p | o o o o ]          p prompt, o output
        ^ num_computed ----^             what lies in the cache; the next step computes the rest
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from pureqwen.chat import Event, Recast, Reply
from pureqwen.config import SamplingParams
from pureqwen.generate.constrain import Constraint
from pureqwen.generate.proportion import GrammarError
from pureqwen.generate.result import Logprob, Result, Timings, Usage
from pureqwen.generate.sampling import Sampler
from pureqwen.generate.speculative import Lookup


@dataclass(frozen=True, kw_only=True)
class Budget:
    """After `tokens` tokens inside the thinking, `ending` (a sentence and the closing tag) is forced.

    It comes earlier where max_tokens would leave no token for the answer behind it: what a model writes
    before it begins to think is not known beforehand.
    """

    tokens: int
    ending: tuple[int, ...]

    def check(self, max_tokens: int) -> None:
        """ValueError where so many tokens leave none for the answer."""
        least = self.tokens + len(self.ending) + 1
        if max_tokens < least:
            raise ValueError(
                f"thinking_budget is {self.tokens} and its closing sentence has {len(self.ending)} "
                f"tokens, which leaves nothing of max_tokens {max_tokens} for the answer: "
                f"give at least {least}"
            )


class Scores:
    """The log-probabilities of a prompt's tokens, and of the `top` likeliest beside each, as they are made.

    Several rows of one prompt may share them: whichever computes a place first scores it.
    """

    def __init__(self, num_prompt: int, *, top: int) -> None:
        self.top = top
        self.found: list[Logprob | None] = [None] * num_prompt  # the first follows nothing, and has none
        self.missing = num_prompt - 1


class Row:
    """A prompt, what has been generated for it, and the rules for what comes next."""

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        params: SamplingParams,
        sampler: Sampler,
        reply: Reply,
        text_of: Callable[[int], str],
        budget: Budget | None = None,
        constraint: Constraint | None = None,
        closing: Sequence[int] = (),
    ) -> None:
        """`params` with every field set, max_tokens too: at most what fits in the context.

        closing: what ends a thought, where an answer must follow it.
        """
        self.ids = list(prompt)
        self.num_prompt = len(self.ids)
        self.num_computed = 0
        self.num_cached = 0  # of the prompt, found in the cache when the row began
        self.params, self.sampler, self.reply, self.budget = params, sampler, reply, budget
        self.text_of = text_of  # a token by itself, for log-probabilities
        self.logprobs: list[Logprob] = []
        self.forced: deque[int] = deque()
        self.num_forced = self.num_reasoning = self.num_thought = 0
        self.constraint = constraint  # the form of the answer
        self.closing = tuple(closing)
        self.error: GrammarError | None = None  # why its constraint failed, which ended the row
        self.scores: Scores | None = None  # of the prompt; None: not asked for
        self.lookup: Lookup | None = None  # made by the first draft
        self.start()
        self.close_thinking()

    def start(self) -> None:
        """The clock runs from here."""
        self.started = self.first = self.last = time.perf_counter()

    def shorten(self, max_tokens: int) -> None:
        """The answer has at most so many tokens, if not fewer anyway.

        Raises ValueError where the parameters ask for more: min_tokens, a thinking budget.
        """
        assert self.params.max_tokens is not None
        if max_tokens < self.params.max_tokens:
            if self.budget is not None:
                self.budget.check(max_tokens)
            self.params = dataclasses.replace(self.params, max_tokens=max_tokens)

    @property
    def output(self) -> list[int]:
        return self.ids[self.num_prompt :]

    @property
    def finished(self) -> bool:
        return self.reply.finish_reason is not None

    def reuse(self, num_cached: int) -> None:
        """The first `num_cached` ids lie in the cache already."""
        self.num_computed = self.num_cached = num_cached

    def accept(self, logits: Tensor) -> list[Event]:
        """Choose the next token from its raw logits (V,), and say what that adds to the answer.

        Where a constraint leaves nothing to choose, the row ends here and no token is added. Where the model
        would end inside its thought, and an answer must follow, the thought is closed in the place of that.
        """
        constraint = None if self.forced or self.reply.in_reasoning else self.constraint
        token = self.forced[0] if self.forced else self.choose(logits, constraint)
        if token is None:
            return self.reply.finish("interrupted" if self.error else "stop")
        if self.leaves_open(token):
            self.forced.extend(self.closing)
        forced = bool(self.forced)
        if forced:
            token = self.forced.popleft()
        if self.params.logprobs:
            self.logprobs.append(self.score(logits, token, top=self.params.top_logprobs or 0, forced=forced))
        events = self.append(token, forced=forced)
        if constraint is not None and not self.finished:
            constraint.push(token)
        return events

    def choose(self, logits: Tensor, constraint: Constraint | None) -> int | None:
        """The sampler's choice of what the constraint allows; None where it allows nothing, for then the text
        is whole, or it is an `error`.
        """
        count, allowed = len(self.ids) - self.num_prompt, None
        if constraint is not None:
            allowed = constraint.allowed(len(logits), ends=self.sampler.end_ids)
            if count < (self.params.min_tokens or 0):
                allowed[self.sampler.ends] = False
            if not allowed.any():
                self.error = constraint.error
                return None
        return self.sampler.choose(logits, position=len(self.ids), count=count, allowed=allowed)

    def leaves_open(self, token: int) -> bool:
        """Whether this token ends the answer inside its thought, while a form or a budget waits behind it.

        A whole call that was begun without closing the thought is an answer; it is none that a form holds.
        """
        if self.forced or not self.closing or not self.reply.in_reasoning:
            return False
        if token not in self.sampler.end_ids:
            return False
        return self.constraint is not None or not self.reply.holds_call

    def append(self, token: int, *, forced: bool) -> list[Event]:
        """The next token of the output is this one: what that adds to the answer."""
        count, thinking = len(self.ids) - self.num_prompt, self.reply.in_reasoning
        self.ids.append(token)
        self.sampler.saw(token)
        if self.lookup is not None:
            self.lookup.push(token)
        self.num_forced += forced
        self.last = time.perf_counter()
        if count == 0:
            self.first = self.last
        events = self.reply.push(token)
        inside = thinking and self.reply.in_reasoning
        self.num_reasoning += inside
        if any(isinstance(event, Recast) for event in events):  # what was written so far was that thought
            self.num_reasoning = count
        self.num_thought += inside and not forced  # what counts against the budget
        self.close_thinking()
        if not self.finished and count + 1 == self.params.max_tokens:
            events = [*events, *self.reply.finish("length")]
        return events

    @property
    def prompt_logprobs(self) -> list[Logprob | None] | None:
        return None if self.scores is None else self.scores.found

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the logits behind every token of the prompt are to be given to `score_prompt`."""
        return self.scores is not None and self.scores.missing > 0

    def ask_prompt_logprobs(self, top: int) -> None:
        """The log-probabilities of the prompt's tokens are wanted, and of the `top` likeliest beside each."""
        self.scores = Scores(self.num_prompt, top=top)

    def share_prompt_logprobs(self, other: "Row") -> None:
        """This row's prompt is the other's, which has asked for its log-probabilities: they are made once."""
        assert self.ids[: self.num_prompt] == other.ids[: other.num_prompt]
        self.scores = other.scores

    def score_prompt(self, start: int, logits: Tensor) -> None:
        """Score the prompt's tokens `start` + 1 to `start` + n by the raw logits (n, V) before each of them.

        What follows the last one is not the prompt's.
        """
        scores = self.scores
        assert scores is not None
        for at, row in enumerate(logits[: self.num_prompt - 1 - start], start + 1):
            if scores.found[at] is None:
                scores.found[at] = self.score(row, self.ids[at], top=scores.top)
                scores.missing -= 1

    def draft(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next, to be computed along with what is left; often none.

        `accept` each of them by the logits before it, as long as that chooses the very token: `num_computed`
        then counts what was computed of `ids`, and the rest of the draft is void.
        """
        assert self.params.max_tokens is not None
        limit = min(limit, self.params.max_tokens - (len(self.ids) - self.num_prompt) - 1)
        if limit < 1 or self.forced:
            return []
        if self.lookup is None:
            self.lookup = Lookup(self.ids)
        return self.lookup.draft(limit)

    def close_thinking(self) -> None:
        """At the end of the budget, queue the sentence that ends the thinking; the answer follows it."""
        if self.budget is None or self.forced or not self.reply.in_reasoning:
            return
        assert self.params.max_tokens is not None
        left = self.params.max_tokens - (len(self.ids) - self.num_prompt)
        if self.num_thought >= self.budget.tokens or left <= len(self.budget.ending) + 1:
            self.forced.extend(self.budget.ending)

    def score(self, logits: Tensor, token: int, *, top: int, forced: bool = False) -> Logprob:
        """The log-probabilities of the token and of the `top` likeliest ones, from the raw logits (V,)."""
        logprobs = logits.log_softmax(-1)
        values, ids = logprobs.topk(min(top, len(logits)))
        text = self.text_of
        best = tuple((i, text(i), v) for i, v in zip(ids.tolist(), values.tolist(), strict=True))
        return Logprob(
            token_id=token, text=text(token), logprob=logprobs[token].item(), top=best, forced=forced
        )

    def result(self) -> Result:
        """The answer so far; interrupted, when nothing has ended it."""
        reply, num_output = self.reply, len(self.ids) - self.num_prompt
        return Result(
            text=reply.text,
            reasoning=reply.reasoning,
            content=reply.content,
            tool_calls=reply.tool_calls,
            token_ids=self.output,
            finish_reason=reply.finish_reason or "interrupted",
            logprobs=list(self.logprobs) if self.params.logprobs else None,
            usage=Usage(
                prompt_tokens=self.num_prompt,
                completion_tokens=num_output,
                cached_tokens=self.num_cached,
                reasoning_tokens=self.num_reasoning,
                forced_tokens=self.num_forced,
            ),
            timings=Timings(
                time_to_first_token=self.first - self.started,
                decode_seconds=self.last - self.first,
                prompt_tokens=self.num_prompt - self.num_cached,
                decode_tokens=max(num_output - 1, 0),
            ),
            seed=self.sampler.seed,
            prompt_logprobs=self.prompt_logprobs and list(self.prompt_logprobs),
            error=None if self.error is None else str(self.error),
        )
