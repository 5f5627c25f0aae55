"""From raw logits to the next token of one row.

    raw logits (V,)
      -> ids without a token, what a grammar forbids, end ids before min_tokens: to -inf;  logit_bias added
      -> repetition penalty (prompt and output; Keskar et al. 2019, "CTRL", section 4.1)
      -> presence and frequency penalty (output)
      -> / temperature -> top_k -> top_p (Holtzman et al. 2020, section 3.1) -> min_p (Nguyen et al. 2024)
      -> softmax -> a draw that depends on (seed, position) alone

Everything is float32. The draw asks no generator's state: whatever else runs beside a request, and in
whatever chunks, its tokens stay the same. Log-probabilities are the log-softmax of the raw logits, before all
of this.
"""

import random
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from pureqwen.config import SamplingParams

NEVER = float("-inf")


class Seen:
    """Ids, each of them once, and how often each came: as tensors, not made anew for each token."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._place = {id: place for place, id in enumerate(dict.fromkeys(ids))}
        self.ids = torch.tensor([*self._place], dtype=torch.long)
        self.times = torch.ones(len(self.ids))

    def add(self, token: int) -> None:
        place = self._place.setdefault(token, len(self._place))
        if place < len(self.ids):
            self.times[place] += 1
        else:
            self.ids = torch.cat((self.ids, torch.tensor([token])))
            self.times = torch.cat((self.times, torch.ones(1)))


class Sampler:
    """The choice of one row's tokens; remembers which ids have been seen, for the penalties."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt: Iterable[int],
        seed: int,
        num_tokens: int | None,
        end_ids: Collection[int],
    ) -> None:
        """`params` with every field set (but limits). `num_tokens`: ids from there on have no token."""
        self.params, self.seed, self.num_tokens = params, seed, num_tokens
        self.end_ids = frozenset(end_ids)
        self.ends = torch.tensor(sorted(end_ids), dtype=torch.long)
        bias = params.logit_bias or {}
        self.biased, self.biases = torch.tensor([*bias], dtype=torch.long), torch.tensor([*bias.values()])
        assert params.repetition_penalty is not None
        assert params.presence_penalty is not None and params.frequency_penalty is not None
        self.penalties = params.repetition_penalty, params.presence_penalty, params.frequency_penalty
        self.seen = Seen(prompt) if params.repetition_penalty != 1 else None
        self.written = Seen() if params.presence_penalty or params.frequency_penalty else None

    def choose(self, logits: Tensor, *, position: int, count: int, allowed: Tensor | None = None) -> int:
        """The token for `position`, after `count` tokens of output, from its raw logits (V,).

        allowed: what a grammar leaves to choose from, (V,) bool.
        """
        if allowed is None and self.is_plain(count):
            return likeliest(logits[: self.num_tokens])
        scores = self.penalise(self.mask(logits, count, allowed))
        temperature = self.params.temperature
        assert temperature is not None
        if temperature == 0:
            return likeliest(scores)
        ids, scores = self.narrow(scores / temperature)
        return int(ids[draw(scores, uniform(self.seed, position))])

    def is_plain(self, count: int) -> bool:
        """Whether after `count` tokens nothing but the largest logit is asked for."""
        changed = self.seen is not None or self.written is not None or len(self.biased) > 0
        return self.params.temperature == 0 and not changed and count >= (self.params.min_tokens or 0)

    def saw(self, token: int) -> None:
        """Take note of a token of the output."""
        for ids in (self.seen, self.written):
            if ids is not None:
                ids.add(token)

    def mask(self, logits: Tensor, count: int, allowed: Tensor | None = None) -> Tensor:
        scores = logits.clone()
        if allowed is not None:
            scores[~allowed.to(scores.device)] = NEVER
        if self.num_tokens is not None:
            scores[self.num_tokens :] = NEVER
        if count < (self.params.min_tokens or 0):
            scores[self.ends.to(scores.device)] = NEVER
        if len(self.biased):
            self.biased, self.biases = self.biased.to(scores.device), self.biases.to(scores.device)
            scores[self.biased] += self.biases
        return scores

    def penalise(self, scores: Tensor) -> Tensor:
        repetition, presence, frequency = self.penalties
        if self.seen is not None:
            ids = self.seen.ids.to(scores.device)
            seen = scores[ids]
            scores[ids] = torch.where(seen > 0, seen / repetition, seen * repetition)
        if self.written is not None:
            times = self.written.times.to(scores.device)
            scores[self.written.ids.to(scores.device)] -= presence + frequency * times
        return scores

    def narrow(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Leave the likely tokens by top_k, then top_p, then min_p: their ids, ascending, and scores (N,)."""
        p = self.params
        assert p.top_k is not None and p.top_p is not None and p.min_p is not None
        ids = torch.arange(len(scores), device=scores.device)
        if 0 < p.top_k < len(scores):
            keep = scores >= scores.topk(p.top_k).values[-1]  # ties with the last stay
            ids, scores = ids[keep], scores[keep]
        if p.top_p < 1:
            ranked, order = scores.softmax(-1).sort(descending=True, stable=True)
            before = ranked.cumsum(-1) - ranked  # the probability of all that is likelier
            inside = before.double() < p.top_p  # in float32 the smallest top_p would be 0, and nothing inside
            keep = torch.empty_like(inside).index_copy_(0, order, inside)
            ids, scores = ids[keep], scores[keep]
        if p.min_p > 0:
            probabilities = scores.softmax(-1)
            keep = probabilities >= p.min_p * probabilities.max()
            ids, scores = ids[keep], scores[keep]
        return ids, scores


def likeliest(scores: Tensor) -> int:
    """The place of the largest score, the first of equals. On a CPU by NumPy, four times as fast at it."""
    quick = scores.device.type == "cpu" and scores.dtype == torch.float32
    return int((scores.detach().numpy() if quick else scores).argmax())


def draw(scores: Tensor, u: float) -> Tensor:
    """The place in `scores` (N,) at the share u in [0, 1) of their probability, counted from the first."""
    total = scores.double().softmax(-1).cumsum(-1)
    return torch.searchsorted(total, total[-1] * u, right=True).clamp(max=len(scores) - 1)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on seed and position alone, the same on every machine."""
    return random.Random(f"{seed}:{position}").random()
