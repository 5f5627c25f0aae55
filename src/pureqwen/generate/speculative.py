"""Guessing the next tokens from the text itself (prompt lookup; Saxena 2023, "Prompt Lookup Decoding").

    ... def area(w, h): return w * h ... def area(w, h     the last three tokens stood here before:
        ------------------------^^^^^^       ----------    what followed them may follow again

A guess costs little: a forward over one token reads all of the weights, and so does one over five. Each
guessed token is held against what is chosen at its position, and the first that differs voids the rest. That
this changes nothing is shown for sampling by Leviathan et al. 2023 ("Fast Inference from Transformers via
Speculative Decoding"), by accepting and rejecting; here it is plainer: a draw depends on (seed, position) and
the logits alone, so with a guess or without one the same token is drawn.

How many tokens to guess is read off the share of guesses that came true, p: the k-th of a draft is of use
with probability p**k, and costs COST of a step that would be made without it. So guess while p**k > COST; not
at all when p itself is less. The share is measured on every token, also when nothing is drafted: it comes
back by itself when a text begins to repeat.
"""

import math
from collections import deque
from collections.abc import Sequence

SIZES = (3, 2)  # of the ends that are looked for, the longest first
COST = 0.2  # of one more token in a step, as a share of the step
RATE = 1 / 8  # of the newest guess in the share of those that came true
START = 0.5  # that share before anything is known


class Lookup:
    """Where each short sequence of one text occurred last, and how often what it foretold came true."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: list[int] = []
        self.behind: dict[int, int] = {}  # hash of a sequence -> the place behind its last occurrence
        self.pending: deque[int] = deque()  # what was guessed for the next tokens
        self.share = START
        for token in ids:
            self.add(token)

    @property
    def length(self) -> int:
        """How many tokens to guess at a time."""
        if self.share <= COST:
            return 0
        return int(math.log(COST) / math.log(min(self.share, 0.99)))

    def draft(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next."""
        found = self.guess(min(limit, self.length))
        self.pending = deque(found)
        return found

    def push(self, token: int) -> None:
        """The next token is this one."""
        expected = self.pending or self.guess(1)
        if expected:
            right = expected[0] == token
            self.share += RATE * (right - self.share)
            self.pending = deque([*self.pending][1:] if right else ())
        self.add(token)

    def guess(self, count: int) -> list[int]:
        """What followed the longest end of the text that occurred before: `count` tokens, or none.

        Where that reaches the end of the text, it goes round: ab ab ab is followed by ab.
        """
        for size in SIZES:
            place = self.behind.get(hash(tuple(self.ids[-size:])))
            if place is not None and count > 0:
                piece = self.ids[place : place + count]
                return [piece[n % len(piece)] for n in range(count)]
        return []

    def add(self, token: int) -> None:
        """The end of the text becomes known once something follows it: it is not to find itself."""
        place = len(self.ids)
        for size in SIZES:
            if place >= size:
                self.behind[hash(tuple(self.ids[-size:]))] = place
        self.ids.append(token)
