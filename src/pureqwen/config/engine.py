"""EngineConfig: how many requests run beside one another, and with how much memory. It imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pureqwen.config.check import check_bool, check_float, check_int


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The settings of one engine.

    max_batch           most requests in one step
    step_tokens         most tokens that one step computes, those of answers and of prompts together
    page_size           tokens of a page of the cache; what is shared between requests is whole pages;
                        None: 256 on CUDA in bfloat16, as its attention over pages wants them, 16 elsewhere
    cache_tokens        tokens that the cache holds, over all requests; None: as many as the context, at least
                        32 * 1024, but no more than a share of the free memory (and always one context);
                        an answer ends where they are full, if they are fewer than the context
    max_queue           most requests that wait; one more is refused as Busy
    prefix_caching      keep what was computed for a beginning, for whoever comes with the same
    deterministic       logits that do not depend, to the bit, on what else is computed beside them
    speculative         most tokens that are drafted ahead of a row's next one; 0: none
    stretch             how much longer than a step without prompts one with a piece of a long prompt may take

    Raises ValueError naming the field, what it was and what it must be.
    """

    max_batch: int = 32
    step_tokens: int = 512
    page_size: int | None = None
    cache_tokens: int | None = None
    max_queue: int = 256
    prefix_caching: bool = True
    deterministic: bool = False
    speculative: int = 0
    stretch: float = 2.0

    def __post_init__(self) -> None:
        for name in ("max_batch", "step_tokens", "max_queue"):
            self._set(name, check_int(name, getattr(self, name), low=1))
        if self.page_size is not None:
            self._set("page_size", check_int("page_size", self.page_size, low=1))
        if self.cache_tokens is not None:
            low = self.page_size or 16
            self._set("cache_tokens", check_int("cache_tokens", self.cache_tokens, low=low))
        for name in ("prefix_caching", "deterministic"):
            check_bool(name, getattr(self, name))
        self._set("speculative", check_int("speculative", self.speculative))
        self._set("stretch", check_float("stretch", self.stretch, low=1.0, above=True))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
