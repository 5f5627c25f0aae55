"""What was promised of speed, and whether it is reached: each bar is a figure taken from the rows.

A bar of speed is reached by its ratio, or by 90 % of the limit that was measured in the same run. Where a
peer's figure is missing, the bar is not measured, and not reached.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.peers.rows import Row, ratio

NEAR = 0.90  # of the limit
Figure = Callable[[Sequence[Row]], float | None]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """figure: what is compared. asked: the number it must reach, or stay below where `less`.
    share: of the limit, where that alone would do.
    """

    words: str
    figure: Figure
    asked: float
    unit: str = "x"
    less: bool = False
    share: Figure = lambda rows: None

    def verdict(self, rows: Sequence[Row]) -> str:
        found, near = self.figure(rows), self.share(rows)
        if found is None:
            return "not measured"
        if found <= self.asked if self.less else found >= self.asked:
            return "reached"
        return "reached: 90 % of the limit" if near is not None and near >= NEAR else "not reached"


def chosen(
    rows: Iterable[Row], what: str, bits: int | None = None, batches: Sequence[int] | None = None
) -> list[Row]:
    """The rows of a kind; all bits, and all batches, where none are named."""
    return [
        row
        for row in rows
        if row["what"] == what and bits in (None, row["bits"]) and (not batches or row["batch"] in batches)
    ]


def least(values: Iterable[float | None]) -> float | None:
    """The least; None where one is missing, or there is none."""
    known = list(values)
    return min(known, key=float) if known and None not in known else None  # type: ignore[arg-type]


def over(row: Row, peer: str) -> float | None:
    """How far ours is ahead of the best of the peers whose names begin so."""
    ratios = [value for name, value in row["ratios"].items() if name.startswith(peer)]
    return min(ratios, default=None)


def ahead(what: str, bits: int | None, peer: str, batches: Sequence[int] | None = None) -> Figure:
    """The least lead over a peer in the rows of a kind."""
    return lambda rows: least(over(row, peer) for row in chosen(rows, what, bits, batches))


def best_ahead(what: str, peer: str) -> Figure:
    """Our best over the peer's best, whatever the bits of either."""

    def figure(rows: Sequence[Row]) -> float | None:
        few = chosen(rows, what)
        ours = [row["ours"] for row in few if row["ours"]]
        theirs = [value for row in few for name, value in row["peers"].items() if name.startswith(peer)]
        return ratio(what, max(ours), max(theirs)) if ours and theirs else None

    return figure


def share(what: str, bits: int | None = None, batches: Sequence[int] | None = None) -> Figure:
    return lambda rows: least(row["share"] for row in chosen(rows, what, bits, batches))


def best_share(what: str) -> Figure:
    return lambda rows: max((row["share"] for row in chosen(rows, what) if row["share"]), default=None)


def excess(rows: Sequence[Row]) -> float | None:
    """The most memory beyond weights and cache."""
    few = chosen(rows, "memory")
    return max((row["ours"] - row["limit"] for row in few if row["ours"]), default=None)


def longest(rows: Sequence[Row]) -> float | None:
    few = [row["ours"] for row in chosen(rows, "start-up")]
    return max(few) if few and None not in few else None


def ratio_bar(words: str, figure: Figure, asked: float, near: Figure) -> Bar:
    return Bar(words=words, figure=figure, asked=asked, share=near)


BARS = (
    ratio_bar("decode, 16 bits, over llama.cpp BF16", ahead("decode", 16, "llama.cpp", [1]), 1.05,
              share("decode", 16, [1])),
    ratio_bar("decode, 8 bits, over llama.cpp Q8_0", ahead("decode", 8, "llama.cpp", [1]), 1.6,
              share("decode", 8, [1])),
    ratio_bar("decode, 4 bits, over llama.cpp's best", ahead("decode", 4, "llama.cpp", [1]), 2.0,
              share("decode", 4, [1])),
    ratio_bar("decode, 16 bits, over transformers", ahead("decode", 16, "transformers", [1]), 3.0,
              share("decode", 16, [1])),
    ratio_bar("prefill, our best over OpenVINO int8", best_ahead("prefill", "OpenVINO int8"), 1.3,
              best_share("prefill")),
    ratio_bar("prefill, our best over llama.cpp's best", best_ahead("prefill", "llama.cpp"), 2.2,
              best_share("prefill")),
    ratio_bar("prefill, 16 bits, over transformers", ahead("prefill", 16, "transformers"), 1.15,
              share("prefill", 16)),
    ratio_bar("decode, batch 8, 8 bits, over OpenVINO int8", ahead("decode", 8, "OpenVINO int8", [8]), 1.3,
              share("decode", 8, [8])),
    ratio_bar("decode, batch 32, 8 bits, over OpenVINO int8", ahead("decode", 8, "OpenVINO int8", [32]), 1.3,
              share("decode", 8, [32])),
    ratio_bar("MoE decode over llama.cpp, the least lead of all bits and batches",
              ahead("MoE decode", None, "llama.cpp"), 1.3, share("MoE decode")),
    ratio_bar("MoE prefill, 16 bits, over transformers", ahead("MoE prefill", 16, "transformers"), 1.5,
              share("MoE prefill", 16)),
    Bar(words="decode with a long cache, share of the read limit", figure=share("long decode"), asked=0.7,
        unit="of the limit"),
    Bar(words="start of the process to the first token", figure=longest, asked=3.0, unit="s", less=True),
    Bar(words="memory beyond weights and cache", figure=excess, asked=150, unit="MB", less=True),
)  # fmt: skip
