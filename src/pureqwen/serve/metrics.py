"""What Prometheus reads at /metrics: requests and errors as they come, the engine as it stands when asked.

A registry of its own, so that two servers in one process, or a program around one, do not mix their figures.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pureqwen.serve.engine import Engine
from pureqwen.serve.request import Statistics

PREFIX = "pureqwen_"
SHORT = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
LONG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)

# name -> (field of Statistics, what it is)
GAUGES = {
    "queue_requests": ("waiting", "Requests that wait for their first step."),
    "batch_requests": ("running", "Requests that are being computed."),
    "pages": ("pages_total", "Pages of the cache."),
    "pages_used": ("pages_used", "Pages that running requests hold."),
    "pages_cached": ("pages_cached", "Pages that nobody holds and that are kept for whoever begins alike."),
    "step_seconds": ("step_seconds", "The last step."),
}
COUNTERS = {
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts."),
    "cached_tokens": ("cached_tokens", "Tokens of prompts that were found in the cache."),
    "generated_tokens": ("generated_tokens", "Tokens of answers."),
    "drafted_tokens": ("drafted_tokens", "Tokens that were drafted ahead."),
    "accepted_tokens": ("accepted_tokens", "Drafted tokens that were right."),
    "steps": ("steps", "Steps of the engine."),
    "preemptions": ("preemptions", "Requests that lost their pages for a while."),
    "step_failures": ("failures", "Steps that crashed."),
}


class Metrics:
    """The figures of one server."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.errors = Counter(
            f"{PREFIX}errors", "Requests without an answer, by kind.", ("kind",), registry=self.registry
        )
        self.seconds = Histogram(
            f"{PREFIX}request_seconds",
            "From arrival to the last byte.",
            ("route",),
            buckets=LONG,
            registry=self.registry,
        )
        self.first_token = Histogram(
            f"{PREFIX}time_to_first_token_seconds",
            "From arrival to a row's first token.",
            buckets=LONG,
            registry=self.registry,
        )
        self.between_tokens = Histogram(
            f"{PREFIX}inter_token_seconds",
            "From a row's token to the next.",
            buckets=SHORT,
            registry=self.registry,
        )
        self.registry.register(EngineFigures(engine))

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)


class EngineFigures(Collector):
    """The engine's statistics at the moment of asking."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: asking for it would ask an engine that may not run yet."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        now = self._engine.statistics()
        for name, (field, text) in GAUGES.items():
            yield GaugeMetricFamily(PREFIX + name, text, value=float(getattr(now, field)))
        for name, (field, text) in COUNTERS.items():
            yield CounterMetricFamily(PREFIX + name, text, value=float(getattr(now, field)))
        yield GaugeMetricFamily(
            f"{PREFIX}hit_rate", "Share of prompt tokens found in the cache.", value=hits(now)
        )
        yield GaugeMetricFamily(f"{PREFIX}healthy", "1: the engine steps.", value=float(self._engine.healthy))


def hits(now: Statistics) -> float:
    return now.cached_tokens / now.prompt_tokens if now.prompt_tokens else 0.0
