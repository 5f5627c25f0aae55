"""The picture of the pocket's evaluation: accuracy by task, thinking and direct, and by thinking budget."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

INK, BLUE, PALE, GRID = "#222222", "#2b6cb0", "#b9c6d3", "#e6e9ed"


def fingerprint(result: Mapping[str, Any]) -> str:
    """Of what is drawn: the figures, not the time that they took."""
    drawn = json.dumps([result["rows"], result["budgets"]], sort_keys=True)
    return hashlib.sha256(drawn.encode()).hexdigest()


def is_fresh(result: Mapping[str, Any], path: Path) -> bool:
    """Whether the picture at `path` shows this result: it carries the fingerprint."""
    return path.is_file() and fingerprint(result).encode() in path.read_bytes()


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draws the result into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = result["rows"]
    figure = Figure(figsize=(9.2, 0.24 * len(rows) + 1.3), layout="constrained")
    FigureCanvasAgg(figure)
    tasks, budget = figure.subplots(1, 2, width_ratios=(3, 2))
    _tasks(tasks, rows)
    _budget(budget, result["budgets"])
    for axes in (tasks, budget):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK)
        axes.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None, "Description": fingerprint(result)})


def _tasks(axes: Any, rows: list[dict[str, Any]]) -> None:
    """A line for each task, from without thinking to with thinking; a ring is a wording that is new."""
    for place, row in enumerate(reversed(rows)):
        thinking, direct = row["thinking, seen wording"], row["direct, seen wording"]
        axes.plot([direct, thinking], [place, place], color=GRID, linewidth=3, zorder=1)
        axes.plot(direct, place, "o", color=PALE, markersize=6, zorder=2)
        axes.plot(thinking, place, "o", color=BLUE, markersize=6, zorder=3)
        axes.plot(
            row["thinking, held out wording"], place, "o", color=INK, fillstyle="none", markersize=8, zorder=4
        )
    for marker, label in (
        ({"color": BLUE}, "thinking"),
        ({"color": INK, "fillstyle": "none"}, "thinking, new wording"),
        ({"color": PALE}, "direct"),
    ):
        axes.plot([], [], "o", label=label, **marker)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    axes.set_yticks(range(len(rows)), [row["task"] for row in reversed(rows)])
    axes.set_xlim(-3, 103)
    axes.set_xlabel("percent of held-out questions answered exactly", fontsize=8)
    axes.grid(axis="x", color=GRID)


def _budget(axes: Any, budgets: list[dict[str, Any]]) -> None:
    """Accuracy over all tasks against the most tokens that the thinking may have."""
    limited = [row for row in budgets if row["budget"] is not None]
    (whole,) = (row["accuracy"] for row in budgets if row["budget"] is None)
    axes.axhline(whole, color=PALE, linewidth=1.5, linestyle="--")
    axes.text(limited[0]["budget"], whole + 1.5, f"no limit: {whole:g} %", fontsize=8, color=INK)
    axes.plot(
        [row["budget"] for row in limited],
        [row["accuracy"] for row in limited],
        "o-",
        color=BLUE,
        markersize=5,
    )
    axes.set_ylim(0, 105)
    axes.set_xlabel("thinking budget, tokens", fontsize=8)
    axes.set_title("all tasks, percent right", fontsize=9, color=INK)
    axes.grid(color=GRID)
