"""What a chat template may cost: bytes and processor time, counted while it runs.

A template is a program that came with a checkpoint, and Jinja bounds neither its memory nor its time. Here
every operation of the sandbox pays for what it makes before it makes it. The allowance is `BASE` bytes plus
`FACTOR` times the messages, so a long chat may cost more and a short one never more than some megabytes.
Reading and copying count like making, hence the allowance bounds the time between two looks at the clock.

A list may hold the same list twice, and that list another one twice: forty steps make a text of a terabyte
out of nothing. `weigh` therefore counts with multiplicity and remembers what it has counted, and no container
heavier than the whole allowance, or deeper than `DEPTH`, is let into being.
"""

import time

BASE = 12_000_000  # bytes
FACTOR = 64  # a template of Qwen's copies a message about 14 times
SECONDS = 0.4  # of this thread's processor time, so that a busy machine fails no chat ...
SECONDS_PER_BYTE = 1e-6  # ... and a long chat may take longer
DEPTH = 100  # of nested lists and dicts
OVERHEAD = 56  # bytes of an object without its contents


class TemplateError(ValueError):
    """A chat template that is not valid, asked for what the sandbox refuses, cost too much, or raised."""


class Budget:
    """The allowance of one rendering of `data` (the variables of the template)."""

    def __init__(self, data: object) -> None:
        self._known: dict[
            int, tuple[int, int, object]
        ] = {}  # id -> weight, height; the object keeps its id taken
        self._operations = 0
        size = self._measure(data)[0]
        self.limit = BASE + FACTOR * size
        self.left = self.limit
        self._seconds = SECONDS + SECONDS_PER_BYTE * size
        self._deadline = time.thread_time() + self._seconds

    def spend(self, amount: int) -> None:
        """Pay for an operation that reads or makes `amount` bytes; TemplateError when that is too much."""
        self.left -= max(0, amount)
        if self.left < 0:
            megabytes = self.limit / 1e6
            raise TemplateError(
                f"the chat template makes too much text: over {megabytes:.0f} MB for these messages"
            )
        self._operations += 1
        if self._operations % 16 == 0 or amount > 50_000:
            self.check_time()

    def check_time(self) -> None:
        """TemplateError when the time is over."""
        if time.thread_time() > self._deadline:
            raise TemplateError(
                f"the chat template runs too long: over {self._seconds:.1f} s of processor time"
            )

    def weigh(self, value: object) -> int:
        """Bytes of `value` and all that it holds, counted as often as it is held."""
        weight, height = self._measure(value)
        if height > DEPTH:
            raise TemplateError(f"the chat template sees lists or dicts nested more than {DEPTH} deep")
        return weight

    def height(self, value: object) -> int:
        """How deep the lists and dicts in `value` are nested."""
        return self._measure(value)[1]

    def text(self, value: object) -> int:
        """At most so many bytes are in `str(value)`."""
        return self.weigh(value) * (1 if isinstance(value, str) else 4)

    def made(self, value: object) -> None:
        """Pay for a new container (its items are old) and check how much it now holds."""
        if self.weigh(value) > self.limit:
            raise TemplateError("the chat template makes a list or dict that holds too much")
        if isinstance(value, (list, tuple, dict)):
            self.spend(OVERHEAD + 16 * len(value))

    def _measure(self, value: object) -> tuple[int, int]:
        if isinstance(value, str):
            return OVERHEAD + len(value) * (1 if value.isascii() else 4), 0
        if isinstance(value, int):
            return OVERHEAD + value.bit_length() // 2, 0
        if not isinstance(value, (list, tuple, dict)):
            return OVERHEAD, 0
        known = self._known.get(id(value))
        if known is None:
            known = (*self._measure_items(value), value)
            self._known[id(value)] = known
        return known[:2]

    def _measure_items(
        self, value: "list[object] | tuple[object, ...] | dict[object, object]"
    ) -> tuple[int, int]:
        weight, height = OVERHEAD, 0
        for item in value:
            item_weight, item_height = self._measure(item)
            weight += item_weight
            height = max(height, item_height)
            if isinstance(value, dict):
                item_weight, item_height = self._measure(value[item])
                weight += item_weight
                height = max(height, item_height)
        return weight, height + 1
