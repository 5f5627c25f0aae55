"""How much of a prompt may be computed beside answers, so that these need not wait long for their next token.

    a step of answers alone       |--------|
    with a piece of a prompt      |--------|======|        at most `factor` times as long

What a step takes is measured, both without prompts and what each of their tokens adds. It imports no torch.
"""

RATE = 1 / 4  # of the newest step in what is believed


class Stretch:
    """factor: how much longer a step may take than one of answers alone. least: tokens of prompts that it may
    have in any case, so that they get on.
    """

    def __init__(self, factor: float, *, least: int) -> None:
        self.factor, self.least = factor, least
        self.writing: float | None = None  # seconds of a step of answers alone
        self.reading: float | None = None  # and those that a token of a prompt adds

    @property
    def limit(self) -> int:
        """Most tokens of prompts beside answers. None at first, so that a step of answers alone is seen."""
        if self.writing is None:
            return 0
        if not self.reading:
            return self.least
        return max(self.least, int((self.factor - 1) * self.writing / self.reading))

    def saw(self, *, writes: bool, num_read: int, seconds: float) -> None:
        """A step with or without answers, and with so many tokens of prompts, took so many seconds."""
        if not num_read:
            self.writing = near(self.writing, seconds)
        else:
            alone = self.writing or 0.0 if writes else 0.0
            self.reading = near(self.reading, max(0.0, seconds - alone) / num_read)


def near(old: float | None, new: float) -> float:
    """A mean in which the newest weighs most."""
    return new if old is None else old + RATE * (new - old)
