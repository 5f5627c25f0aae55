"""The tables of docs/performance.md and of the README, made from results/peers.json.

A cell holds a median, how far the runs were apart (half of the way from the least to the most), and of a peer
how far pureqwen is ahead of it: `22.4 ±2%, x 1.31`. Above 1 is ahead, also where less is better.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.bars import BARS, Bar
from benchmarks.peers.programs import peers_of
from benchmarks.peers.rows import UNITS, Row, spread

FAMILIES = ("transformers", "llama.cpp", "OpenVINO")
HEADLINES = (("prefill", "MoE prefill"), ("decode", "MoE decode"))  # what the README shows, of one text
SPOKEN = {
    "prefill": "prompt of {prompt}",
    "decode": "answer after {prompt}",
    "decode, the head too": "answer after {prompt}, the head in 4 bits",
    "long decode": "answer with {prompt:,} tokens in the cache",
    "start-up": "start to first token, prompt of {prompt}",
    "memory": "memory over the baseline, prompt of {prompt}",
    "MoE prefill": "MoE, prompt of {prompt}",
    "MoE decode": "MoE, answer after {prompt}",
}

Result = Mapping[str, Any]
Runs = Mapping[str, Sequence[float]]


def table(result: Result) -> str:
    """All rows, what was left out and why, and on what it was measured."""
    head = ["what", "bits", "pureqwen", "without native code", *FAMILIES, "limit", "share"]
    lines = [
        cells(row, runs, result["missing"]) for row, runs in zip(result["rows"], result["runs"], strict=True)
    ]
    return "\n\n".join([grid(head, lines), *left_out(result), measured(result)])


def cells(row: Row, runs: Runs, missing: Mapping[str, str]) -> list[str]:
    """A row of the table."""
    return [
        spoken(row),
        str(row["bits"]),
        f"**{figure(row, row['ours'], runs.get('ours'))}**",
        figure(row, row["plain"], runs.get("plain")),
        *(of_family(row, runs, missing, family) for family in FAMILIES),
        figure(row, row["limit"]),
        f"{row['share']:.0%}" if row["share"] else "-",
    ]


def spoken(row: Row) -> str:
    words = SPOKEN[row["what"]].format(prompt=row["prompt"])
    words += f", {row['batch']} at once" if row["batch"] > 1 else ""
    return f"{words}, {UNITS.get(row['what'], 'tokens/s')}"


def figure(row: Row, value: float | None, runs: Sequence[float] | None = None) -> str:
    """A median in the row's unit, with its spread where there is more than one run."""
    if value is None:
        return "-"
    number = (
        f"{value:.2f}" if row["what"] == "start-up" else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    )
    return number if not runs or len(runs) < 2 else f"{number} ±{spread(runs):.0%}"


def of_family(row: Row, runs: Runs, missing: Mapping[str, str], family: str) -> str:
    """The cell of a family of peers: each of them, with its name where there are several."""
    found = {name: value for name, value in row["peers"].items() if name.startswith(family)}
    words = []
    for name, value in found.items():
        kind = f"{name.removeprefix(family).strip()} " if len(found) > 1 else ""
        lead = f", x {row['ratios'][name]:.2f}" if name in row["ratios"] else ""
        words.append(f"{kind}{figure(row, value, runs.get(name))}{lead}")
    kind = "moe" if row["what"].startswith("MoE") else "dense"
    absent = [
        name
        for name in peers_of(kind, row["bits"])
        if name.startswith(family) and name not in found and (name in missing or f"MoE: {name}" in missing)
    ]
    words += [f"{name.removeprefix(family).strip()} left out" for name in absent]
    return "<br>".join(words) or "-"


def left_out(result: Result) -> list[str]:
    """What was not measured, and why: a list, or nothing."""
    lines = [f"- {name}: {why}" for name, why in result["missing"].items()]
    return ["Left out:\n\n" + "\n".join(lines)] if lines else []


def measured(result: Result) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    versions = "; ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"`{result['command']}` on: {machine}.\n\nVersions: {versions}."


def bars(result: Result, all_bars: Sequence[Bar] = BARS) -> str:
    """Every bar, the figure that was measured, and whether it is reached."""
    lines = []
    for bar in all_bars:
        found = bar.figure(result["rows"])
        asked = f"{'at most' if bar.less else 'at least'} {in_unit(bar, bar.asked)}"
        needs = bar.needs(result["rows"])
        lines.append(
            [
                bar.words,
                asked,
                "-" if needs is None else f"{needs:.0%}",
                "-" if found is None else in_unit(bar, found),
                bar.verdict(result["rows"]),
            ]
        )
    return grid(["bar", "asked", "of the limit", "measured", ""], lines)


def in_unit(bar: Bar, value: float) -> str:
    if bar.unit == "x":
        return f"x {value:.2f}"
    return f"{value:.0%} {bar.unit}" if bar.unit.startswith("of") else f"{value:,.3g} {bar.unit}"


def short(result: Result) -> str:
    """The README's: one text at a time, in tokens a second."""
    head = ["tokens/s, one text at a time", "bits", "pureqwen", *FAMILIES, "the machine allows"]
    lines = []
    for whats in HEADLINES:
        for row in result["rows"]:
            if row["what"] in whats and row["batch"] == 1:
                found = cells(row, {}, result["missing"])
                lines.append([found[0].removesuffix(", tokens/s"), *found[1:3], *found[4:8]])
    machine = f"{result['machine']['processor']}, {result['machine']['threads']} threads"
    return f"{grid(head, lines)}\n\nx N: pureqwen is N times as fast. On {machine}."


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, its first column left and the others right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])
