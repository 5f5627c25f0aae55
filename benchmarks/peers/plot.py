"""The picture of results/peers.json: every speed as a part of what the machine allows."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.rows import LESS
from benchmarks.peers.table import FAMILIES, spoken

INK, BLUE, PALE, GRID = "#222222", "#2b6cb0", "#b9c6d3", "#e6e9ed"
MARKS = dict(zip(FAMILIES, (("#c05621", "s"), ("#2f855a", "D"), ("#805ad5", "^")), strict=True))


def fingerprint(result: Mapping[str, Any]) -> str:
    """Of what is drawn."""
    return hashlib.sha256(json.dumps(result["rows"], sort_keys=True).encode()).hexdigest()


def is_fresh(result: Mapping[str, Any], path: Path) -> bool:
    """Whether the picture at `path` shows this result: it carries the fingerprint."""
    return path.is_file() and fingerprint(result).encode() in path.read_bytes()


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draws the result into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if row["what"] not in LESS and row["limit"] and row["ours"]]
    figure = Figure(figsize=(9.2, 0.27 * len(rows) + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        _row(axes, place, row)
    axes.axvline(100, color=INK, linewidth=1)
    for label, style in _legend().items():
        axes.plot([], [], linestyle="none", label=label, **style)
    axes.legend(fontsize=8, frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    words = [f"{spoken(row).removesuffix(', tokens/s')}, {row['bits']} bits" for row in rows]
    axes.set_yticks(range(len(rows)), list(reversed(words)))
    axes.set_xlim(left=0)
    axes.set_xlabel("percent of what the machine's memory and products allow", fontsize=8)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None, "Description": fingerprint(result)})


def _legend() -> dict[str, dict[str, Any]]:
    peers = {
        family: {"color": color, "marker": mark, "markersize": 5} for family, (color, mark) in MARKS.items()
    }
    return {
        "pureqwen": {"color": BLUE, "marker": "o", "markersize": 7},
        "without native code": {"color": PALE, "marker": "o", "markersize": 7},
        **peers,
    }


def _row(axes: Any, place: int, row: Mapping[str, Any]) -> None:
    """A line from pureqwen without native code to pureqwen with it; the peers as marks."""
    styles = _legend()

    def percent(value: float) -> float:
        return 100 * value / float(row["limit"])

    ends = [percent(value) for value in (row["plain"], row["ours"]) if value]
    axes.plot(ends, [place] * len(ends), color=GRID, linewidth=3, zorder=1)
    if row["plain"]:
        axes.plot(ends[0], place, zorder=2, **styles["without native code"])
    axes.plot(ends[-1], place, zorder=4, **styles["pureqwen"])
    for name, value in row["peers"].items():
        family = next((one for one in FAMILIES if name.startswith(one)), None)
        if family:
            axes.plot(percent(value), place, zorder=3, **styles[family])
