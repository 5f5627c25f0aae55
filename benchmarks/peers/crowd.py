"""A crowd: requests that come at their times, and what a program made of them.

    at 0.0   [ prompt of 97 tokens  ] -> 64 tokens        times: when each token of the answer was there,
    at 0.2   [ prompt of 180 ...    ] -> 64 tokens        in seconds after the first request came
    at 0.9   ...

It needs nothing but Python, for the peers' environment too.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

IDS = 150_000  # of Qwen3's 151,936 ids: those that stand for text


@dataclass(frozen=True, kw_only=True)
class Request:
    at: float
    prompt: list[int]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """count requests; prompts of half to one and a half of `prompt` tokens, behind `shared` ones that are the
    same for all; answers of exactly `tokens`. gap: mean seconds between two arrivals (Poisson); 0: all at
    once. late: tokens of one more prompt, which comes after `late_at` seconds and wants one token.
    """

    name: str
    count: int = 32
    prompt: int = 128
    tokens: int = 64
    gap: float = 0.0
    shared: int = 0
    ids: int = IDS
    late: int = 0
    late_at: float = 0.0
    least: float = 0.9  # of an answer's tokens that must come one by one

    def requests(self, seed: int) -> list[Request]:
        """The same for every program; others for another seed, so that nothing is found in a cache."""
        draw = random.Random(f"{self.name} {seed}")
        beginning = [draw.randrange(self.ids) for _ in range(self.shared)]
        at, found = 0.0, []
        for _ in range(self.count):
            length = draw.randint(self.prompt - self.prompt // 2, self.prompt + self.prompt // 2)
            prompt = [*beginning, *(draw.randrange(self.ids) for _ in range(length))]
            found.append(Request(at=at, prompt=prompt, tokens=self.tokens))
            at += draw.expovariate(1 / self.gap) if self.gap else 0.0
        if self.late:
            prompt = [draw.randrange(self.ids) for _ in range(self.late)]
            found.append(Request(at=self.late_at, prompt=prompt, tokens=1))
        return found


def plain(requests: Sequence[Request]) -> list[dict[str, Any]]:
    """As JSON can hold them."""
    return [asdict(request) for request in requests]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run came to; seconds, but for `speed`, in output tokens a second."""

    speed: float
    first: float  # to the first token, the median
    first_99: float
    between: float  # two tokens of an answer
    between_99: float
    longest: float  # of the waits between two tokens, since the last request came


def figures(requests: Sequence[Request], times: Sequence[Sequence[float]], *, least: float = 0.9) -> Figures:
    """What the times say. A server may send some tokens together, which then have one time, and count as one
    between tokens; ValueError where a smaller share than `least` comes one by one.
    """
    for request, got in zip(requests, times, strict=True):
        if not max(1, least * request.tokens) <= len(got) <= request.tokens:
            raise ValueError(f"an answer of {request.tokens} tokens was seen in {len(got)} pieces")
    first = [got[0] - request.at for request, got in zip(requests, times, strict=True)]
    between = [b - a for got in times for a, b in pairwise(got)] or [0.0]
    last = max(request.at for request in requests)
    span = max(got[-1] for got in times) - min(request.at for request in requests)
    return Figures(
        speed=sum(request.tokens for request in requests) / span,
        first=statistics.median(first),
        first_99=quantile(first, 0.99),
        between=statistics.median(between),
        between_99=quantile(between, 0.99),
        longest=max((b - a for got in times for a, b in pairwise(got) if b > last), default=0.0),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that so great a share of them does not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-share * len(ranked) // 1) - 1))]
