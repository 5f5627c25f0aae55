"""How much of a prompt may be computed beside answers, so that these need not wait long for their next token.

    a step of answers alone       |--------|
    with a piece of a prompt      |--------|======|        at most about `factor` times as long

No formula says what a piece costs: small pieces cost more a token than large ones, and all cost more the
longer the text before them is. So the piece grows as long as steps stay within their time, and shrinks as
soon as one does not.

What a step of answers alone takes changes with their number and their lengths. So now and then one is made
without any prompt, though prompts wait, to know it anew. It imports no torch.
"""

RATE = 1 / 4  # of the newest step in what is believed
AGE = 16  # steps with pieces of prompts, after which one without them is seen again
GROW, SHRINK = 1.2, 0.7


class Stretch:
    """factor: how much longer a step may take than one of answers alone. least, most: tokens of a piece."""

    def __init__(self, factor: float, *, least: int, most: int) -> None:
        self.factor, self.least, self.most = factor, least, most
        self.writing: float | None = None  # seconds of a step of answers alone
        self._size = float(least)
        self._age = 0  # steps since `writing` was seen

    @property
    def limit(self) -> int:
        """Most tokens of prompts beside answers. None at first and now and then, so that a step of answers
        alone is seen.
        """
        return 0 if self.writing is None or self._age >= AGE else int(self._size)

    def saw(self, *, writes: bool, num_read: int, seconds: float, num_short: int = 0) -> None:
        """A step with or without answers, and with so many tokens of prompts, took so many seconds.

        num_short: those of them that no limit held for. With any it shows nothing; but long prompts need not
        wait until no short one comes.
        """
        if num_short:
            self._age %= AGE
        elif not num_read:
            self.writing, self._age = near(self.writing, seconds), 0
        elif writes and self.writing is not None:
            self._age += 1
            if seconds > self.factor * self.writing:
                self._size = max(self.least, self._size * SHRINK)
            elif num_read >= int(self._size):  # less was left of the prompt: that shows nothing
                self._size = min(self.most, self._size * GROW)


def near(old: float | None, new: float) -> float:
    """A mean in which the newest weighs most."""
    return new if old is None else old + RATE * (new - old)
