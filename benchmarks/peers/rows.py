"""From what was measured to the rows of the tables: medians, ratios, and each figure's share of its limit.

    found[key][program] = values, one for each turn      key: (what, bits, batch, prompt)

A value is in the unit of what it measures. A ratio above 1 says that pureqwen is ahead, also where less is
better.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ORDER = (
    "prefill",
    "decode",
    "decode, the head too",
    "long decode",
    "start-up",
    "memory",
    "MoE prefill",
    "MoE decode",
)
OURS, PLAIN = "ours", "plain"
UNITS = {"start-up": "s", "memory": "MB"}  # what is not tokens a second
LESS = frozenset(UNITS)  # what is better when there is less of it

Row = dict[str, Any]


class Key(NamedTuple):
    """What a row measures: weights of so many bits, so many texts at once, after so long a prompt."""

    what: str
    bits: int
    batch: int
    prompt: int


Found = Mapping[Key, Mapping[str, Sequence[float]]]


def ratio(what: str, ours: float, peer: float) -> float:
    """How far ours is ahead."""
    return peer / ours if what in LESS else ours / peer


def row(key: Key, values: Mapping[str, Sequence[float]], limit: float | None) -> Row:
    """Medians of one key's values, by program; None for what was not measured."""
    medians = {name: statistics.median(seen) for name, seen in values.items() if seen}
    ours = medians.pop(OURS, None)
    plain = medians.pop(PLAIN, None)
    ratios = {name: ratio(key.what, ours, peer) for name, peer in medians.items()} if ours else {}
    share = ratio(key.what, ours, limit) if ours and limit else None
    return rounded(
        {
            **key._asdict(),
            "ours": ours,
            "plain": plain,
            "peers": medians,
            "ratios": ratios,
            "limit": limit,
            "share": share,
        }
    )


def rounded(value: Any) -> Any:
    """Four figures, or more where the number is larger."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if not isinstance(value, float):
        return value
    return round(value, 1) if abs(value) >= 1000 else float(f"{value:.4g}")


def place(key: Key) -> tuple[int, int, int]:
    """Where a row stands: by what it measures, then by batch, from many bits to few."""
    return ORDER.index(key.what), key.batch, -key.bits


def rows_of(
    found: Found, limits: Mapping[Key, float | None]
) -> tuple[list[Row], list[dict[str, list[float]]]]:
    """The rows, and beside each the values that it was made of."""
    keys = sorted((key for key, values in found.items() if any(values.values())), key=place)
    runs = [{name: [rounded(v) for v in seen] for name, seen in found[key].items()} for key in keys]
    return [row(key, found[key], limits.get(key)) for key in keys], runs


def merged(old: Mapping[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """A result of some groups over an older one: their rows replace the older, the others stay."""
    if old is None:
        return new

    def key(one: Row) -> tuple[Any, ...]:
        return tuple(one[name] for name in Key._fields)

    fresh = {key(one) for one in new["rows"]}
    kept = [n for n, one in enumerate(old["rows"]) if key(one) not in fresh]
    both = [
        *((old["rows"][n], old["runs"][n]) for n in kept),
        *zip(new["rows"], new["runs"], strict=True),
    ]
    both.sort(key=lambda pair: place(Key(*key(pair[0]))))
    return {
        **new,
        "command": new["command"] if not kept else f"{old['command']}; {new['command']}",
        "versions": {**old["versions"], **new["versions"]},
        "missing": {**old.get("missing", {}), **new["missing"]},
        "rows": [row for row, _ in both],
        "runs": [runs for _, runs in both],
    }


def spread(values: Sequence[float]) -> float:
    """Half of the way from the least to the most, as a part of the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / 2 / middle if middle else 0.0
