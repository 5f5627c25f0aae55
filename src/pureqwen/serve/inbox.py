"""Where any thread leaves notes for the engine's: a new request, or one that nobody wants any more.

It imports no torch.
"""

import threading
import time
from collections.abc import Callable

from pureqwen.serve.request import Busy, Request, Stopping, Ticket


class Inbox:
    """Thread-safe, and never held while anything is computed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards what follows
        self._arrived: list[Request] = []
        self._given_up: list[Ticket] = []
        self._number = 0
        self._deadline: float | None = None  # when everything ends; None: it goes on

    @property
    def num_arrived(self) -> int:
        """Requests that were not taken yet."""
        return len(self._arrived)

    @property
    def closed(self) -> bool:
        return self._deadline is not None

    def add(self, make: Callable[[int], Request], *, room: Callable[[], float]) -> Ticket:
        """A request, made from its number. Stopping when closed, Busy when as many as `room` are here."""
        with self._changed:
            if self.closed:
                raise Stopping("the engine takes no more requests: it stops, or has stopped")
            if len(self._arrived) >= room():
                raise Busy("the queue is full: come again later")
            self._number += 1
            request = make(self._number)
            self._arrived.append(request)
            self._changed.notify_all()
            return Ticket(request.name, request.row)

    def give_up(self, ticket: Ticket) -> None:
        """Nobody wants this request any more."""
        with self._changed:
            self._given_up.append(ticket)
            self._changed.notify_all()

    def take(self) -> tuple[list[Request], list[Ticket]]:
        """All notes, which are then gone."""
        with self._changed:
            arrived, given_up = self._arrived, self._given_up
            self._arrived, self._given_up = [], []
            return arrived, given_up

    def wait(self, *, idle: bool) -> bool:
        """Whether to go on: true once there is something to do; false when it ends.

        idle: there are no requests but those that lie here.
        """
        with self._changed:
            while idle and not self._arrived and not self._given_up and not self.closed:
                self._changed.wait()
            if self._deadline is None:
                return True
            done = idle and not self._arrived
            return not done and time.monotonic() < self._deadline

    def close(self, drain: float) -> None:
        """Take no more requests; those that are here have so many seconds, or what an earlier call left."""
        with self._changed:
            deadline = time.monotonic() + drain
            self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
            self._changed.notify_all()
