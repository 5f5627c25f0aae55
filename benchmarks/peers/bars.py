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
    share: of the limit, where that alone would do. needs: the share of the limit that is asked with it.
    """

    words: str
    figure: Figure
    asked: float
    unit: str = "x"
    less: bool = False
    share: Figure = lambda rows: None
    needs: Figure = lambda rows: None

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
        theirs = best_of(few, peer)
        return ratio(what, max(ours), theirs) if ours and theirs else None

    return figure


def best_of(rows: Sequence[Row], peer: str) -> float | None:
    """The best of the peers whose names begin so."""
    return max(
        (value for row in rows for name, value in row["peers"].items() if name.startswith(peer)), default=None
    )


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


def lead(
    words: str, asked: float, what: str, bits: int | None, peer: str, batches: Sequence[int] | None = None
) -> Bar:
    """A lead over a peer, in every row of a kind."""

    def needs(rows: Sequence[Row]) -> float | None:
        few = [(row["limit"], best_of([row], peer)) for row in chosen(rows, what, bits, batches)]
        return max((asked * best / limit for limit, best in few if limit and best), default=None)

    return Bar(
        words=words,
        figure=ahead(what, bits, peer, batches),
        asked=asked,
        share=share(what, bits, batches),
        needs=needs,
    )


def best_lead(words: str, asked: float, what: str, peer: str) -> Bar:
    """A lead of our best over the peer's best."""

    def needs(rows: Sequence[Row]) -> float | None:
        few = chosen(rows, what)
        limit, best = max((row["limit"] or 0 for row in few), default=0), best_of(few, peer)
        return asked * best / limit if limit and best else None

    return Bar(words=words, figure=best_ahead(what, peer), asked=asked, share=best_share(what), needs=needs)


BARS = (
    lead("decode, 16 bits, over llama.cpp BF16", 1.05, "decode", 16, "llama.cpp", [1]),
    lead("decode, 8 bits, over llama.cpp Q8_0", 1.6, "decode", 8, "llama.cpp", [1]),
    lead("decode, 4 bits, over llama.cpp's best", 2.0, "decode", 4, "llama.cpp", [1]),
    lead("decode, the head in 4 bits too, over llama.cpp's best", 2.0, "decode, the head too", 4,
         "llama.cpp"),
    lead("decode, 16 bits, over transformers", 3.0, "decode", 16, "transformers", [1]),
    best_lead("prefill, our best over OpenVINO int8", 1.3, "prefill", "OpenVINO int8"),
    best_lead("prefill, our best over llama.cpp's best", 2.2, "prefill", "llama.cpp"),
    lead("prefill, 16 bits, over transformers", 1.15, "prefill", 16, "transformers"),
    lead("decode, batch 8, 8 bits, over OpenVINO int8", 1.3, "decode", 8, "OpenVINO int8", [8]),
    lead("decode, batch 32, 8 bits, over OpenVINO int8", 1.3, "decode", 8, "OpenVINO int8", [32]),
    lead("MoE decode over llama.cpp, the least lead of all bits and batches", 1.3, "MoE decode", None,
         "llama.cpp"),
    lead("MoE prefill, 16 bits, over transformers", 1.5, "MoE prefill", 16, "transformers"),
    Bar(words="decode with a long cache, share of the read limit", figure=share("long decode"), asked=0.7,
        unit="of the limit"),
    Bar(words="start of the process to the first token", figure=longest, asked=3.0, unit="s", less=True),
    Bar(words="memory beyond weights and cache", figure=excess, asked=150, unit="MB", less=True),
)  # fmt: skip
