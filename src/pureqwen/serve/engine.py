"""The engine: many requests at once, step by step, in a thread of its own."""

from collections.abc import Callable, Sequence

from pureqwen.config import EngineConfig
from pureqwen.generate import Result, Row
from pureqwen.qwen import Qwen
from pureqwen.serve.request import Busy, Failed, Statistics, Stopping, Ticket, Update

__all__ = ["Busy", "Engine", "Failed", "Statistics", "Stopping", "Ticket", "Update"]


class Engine:
    """Answers many requests with one model."""

    def __init__(self, qwen: Qwen, *, config: EngineConfig | None = None) -> None:
        self.qwen, self.config = qwen, config or EngineConfig()

    def start(self) -> None:
        """Start the thread that steps."""
        raise NotImplementedError

    def stop(self, *, drain: float = 0.0) -> None:
        """No new requests; running ones have `drain` seconds to finish, then they end "interrupted"."""
        raise NotImplementedError

    def submit(self, row: Row, *, listen: Callable[[Update], None], salt: str = "") -> Ticket:
        """Queue a row. Thread-safe. Busy when the queue is full, ValueError when it can never fit."""
        raise NotImplementedError

    def abort(self, ticket: Ticket) -> None:
        """End a request as "interrupted"; thread-safe, and nothing if it has ended."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """How it stands."""
        raise NotImplementedError

    @property
    def healthy(self) -> bool:
        """The thread lives and steps."""
        raise NotImplementedError

    def run(self, rows: Sequence[Row]) -> list[Result]:
        """The answers to these rows, in their order; works without `start`, in the caller's thread."""
        raise NotImplementedError
