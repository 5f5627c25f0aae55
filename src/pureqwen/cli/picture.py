"""The roofline as a picture in a file, by matplotlib, which is not needed for anything else."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pureqwen.evaluate.report import Report

KINDS = (".png", ".svg")
INK, BLUE, GREY = "#222222", "#2b6cb0", "#9aa5b1"


def check_picture(path: Path) -> None:
    """Before minutes are spent: the kind of file, its folder, and matplotlib. Raises ValueError."""
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"--plot writes {' and '.join(KINDS)} files, not {path.name}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} into")
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install 'pureqwen[plot]'")


def save_picture(report: "Report", path: Path) -> None:
    """Draw the limits, and each figure below them with its share."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    axes = picture.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    draw_limits(axes, report)
    draw_points(axes, report)
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("operations per second")
    machine = report.machine
    axes.set_title(
        f"{report.name}, {report.dtype}, on {machine['gpu'] or machine['processor']}", fontsize=10, color=INK
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e9ed", zorder=0)
    picture.savefig(path)


def draw_limits(axes: Any, report: "Report") -> None:
    """The roof that counts in ink, the other dtypes' flat parts in grey."""
    roof, bandwidth = report.roof, report.limits.read
    found = [speed.work.intensity for speed in report.speeds]
    left, right = min(*found, roof.ridge) / 3, max(*found, roof.ridge) * 3
    for dtype, peak in report.limits.peaks.items():
        counts = dtype == report.roof_dtype
        colour, start = INK if counts else GREY, max(peak / bandwidth, left)
        axes.plot([start, right], [peak, peak], color=colour, linewidth=1.8 if counts else 1)
        axes.annotate(
            f"{dtype}: {peak / 1e9:,.0f} G/s",
            (right, peak),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=8,
        )
    axes.plot([left, roof.ridge], [left * bandwidth, roof.peak], color=INK, linewidth=1.8)
    axes.annotate(
        f"memory: {bandwidth / 1e9:,.1f} GB/s",
        (middle := (left * roof.ridge) ** 0.5, middle * bandwidth),
        xytext=(-6, 4),
        textcoords="offset points",
        ha="right",
        color=INK,
        fontsize=8,
    )


def draw_points(axes: Any, report: "Report") -> None:
    from pureqwen.cli.figures import label

    for number, speed in enumerate(report.speeds):
        x, y = speed.work.intensity, speed.flops_per_second
        is_left = x < report.roof.ridge  # where there is room at its right
        axes.plot([x, x], [y, report.roof.reach(x)], color=BLUE, linewidth=0.8, linestyle=":")
        axes.plot(x, y, "o", color=BLUE, markersize=6, zorder=3)
        axes.annotate(
            f"{label(speed)}: {speed.share:.0%}",
            (x, y),
            xytext=(8 if is_left else -8, -4 if number % 2 else -10),
            textcoords="offset points",
            ha="left" if is_left else "right",
            fontsize=8,
            color=INK,
        )
