"""What was measured of a model, each figure beside its limit; and the same as plain values, for JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from pureqwen.evaluate.limits import Limits
from pureqwen.evaluate.profile import Profile
from pureqwen.evaluate.roofline import Roof, Work
from pureqwen.evaluate.speed import Sample
from pureqwen.explain import Ledger


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one kind of forward takes: `tokens` are those that it makes, for all rows together."""

    name: str
    batch: int
    cached: int
    tokens: int
    sample: Sample
    work: Work
    roof: Roof

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.sample.median

    @property
    def limit(self) -> float:
        """The most tokens/s that the machine could make."""
        return self.tokens / self.roof.floor(self.work)

    @property
    def share(self) -> float:
        """How much of the limit is reached."""
        return self.tokens_per_second / self.limit

    @property
    def bound(self) -> str:
        return self.roof.bound(self.work)

    @property
    def flops_per_second(self) -> float:
        return self.work.flops / self.sample.median

    def as_plain(self) -> dict[str, Any]:
        seconds = self.sample.seconds
        return {
            "name": self.name,
            "batch": self.batch,
            "cached_tokens": self.cached,
            "tokens": self.tokens,
            "seconds": list(seconds),
            "tokens_per_second": self.tokens_per_second,
            "lowest": self.tokens / max(seconds),
            "highest": self.tokens / min(seconds),
            "flops": self.work.flops,
            "bytes": self.work.num_bytes,
            "limit": self.limit,
            "share": self.share,
            "bound": self.bound,
        }


@dataclass(frozen=True, kw_only=True)
class Start:
    """Seconds from the start of a process until torch was there, the model, and the first token."""

    prompt: int
    torch: float
    loaded: float
    first: Sample

    def as_plain(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "torch_imported": self.torch,
            "model_loaded": self.loaded,
            "first_token": self.first.median,
            "seconds": list(self.first.seconds),
        }


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes held beyond imports and tokenizer, and what weights and cache take of them."""

    held: int
    weights: int
    cache: int

    @property
    def share(self) -> float:
        return (self.weights + self.cache) / self.held

    def as_plain(self) -> dict[str, Any]:
        return {"held": self.held, "weights": self.weights, "cache": self.cache, "share": self.share}


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was measured. path: which code computes a step, in words."""

    name: str
    dtype: str
    counted: Ledger
    machine: dict[str, Any]
    limits: Limits
    roof: Roof
    roof_dtype: str
    path: str
    speeds: tuple[Speed, ...]
    start: Start
    memory: MemoryUse | None
    profile: Profile

    def as_plain(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "model": {
                "name": self.name,
                "dtype": self.dtype,
                "parameters": self.counted.parameters,
                "weight_bytes": self.counted.weight_bytes,
                "path": self.path,
            },
            "limits": {**asdict(self.limits), "used": {**asdict(self.roof), "dtype": self.roof_dtype}},
            "speeds": [speed.as_plain() for speed in self.speeds],
            "start": self.start.as_plain(),
            "memory": self.memory and self.memory.as_plain(),
            "profile": asdict(self.profile),
        }
