"""The pictures of docs/from_scratch.py: numbers in, a matplotlib figure out.

A figure's label is the name of its file, and its `suptitle` is what stands in its place where no picture is
shown. This module computes nothing of the model: what it draws was computed on the page.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, BLUE, RED, GREY, PALE = "#222222", "#2b6cb0", "#c0392b", "#9aa5b1", "#a9cbe8"
SMALL = 7

plt.rcParams.update(
    {
        "figure.dpi": 110,
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "figure.titlesize": 10,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
)


def new(
    name: str, title: str, *, columns: Sequence[float] = (1,), size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """An empty figure with axes side by side; `columns` are their relative widths."""
    plt.close(name)
    figure, axes = plt.subplots(1, len(columns), num=name, figsize=size, width_ratios=columns, squeeze=False)
    figure.suptitle(title)
    return figure, list(axes[0])


def shown(token: str, most: int = 12) -> str:
    """A token as a label: short, blanks and line ends made visible, `$` kept from being mathematics."""
    token = token if len(token) <= most else token[: most - 1] + "…"
    return token.replace("\n", "\\n").replace(" ", "·").replace("$", r"\$")


def labels(set_ticks: Callable[..., object], tokens: Sequence[str], first: int = 0, **more: object) -> None:
    """A tick for each token, from the place `first` on."""
    set_ticks(
        range(first, first + len(tokens)),
        list(map(shown, tokens)),
        fontsize=SMALL - 1,
        family="monospace",
        **more,
    )


def rope(speed: np.ndarray, *, pairs: Sequence[int], scores: Mapping[str, Sequence[float]]) -> None:
    """What pairs up, how fast a pair turns, and what a product of query and key sees.

    speed (Dh/2,): radians per position; scores: label -> the score at distance 0, 1, ...
    """
    _, (halves, turns, product) = new(
        "rope", "RoPE: a position is an angle", columns=(1, 1.6, 1.1), size=(10.2, 2.7)
    )
    half = len(speed)
    colours = [plt.get_cmap("viridis")(n / half) for n in range(half)]
    halves.bar(range(2 * half), 1, width=1, align="edge", color=colours * 2, edgecolor="white", linewidth=0.3)
    bow = {"arrowstyle": "-", "connectionstyle": "arc3,rad=-0.35", "linewidth": 1.4}
    place = range(10)
    for n, pair in enumerate(pairs):
        ends = {"xy": (pair + half + 0.5, 1.02), "xytext": (pair + 0.5, 1.02)}
        halves.annotate("", **ends, arrowprops=bow | {"color": colours[pair]})
        turns.scatter(place, [-n] * len(place), 420, "#eef0f3")
        for p in place:
            x, y = 0.38 * math.cos(p * speed[pair]), 0.38 * math.sin(p * speed[pair])
            turns.plot([p, p + x], [-n, y - n], color=colours[pair], linewidth=2, solid_capstyle="round")
    halves.set(
        ylim=(0, 1.75), yticks=[], xlabel="dimension of a head", title="Dimension i goes with i + Dh/2"
    )
    halves.set_xticks([0, half, 2 * half], ["0", f"Dh/2 = {half}", f"Dh = {2 * half}"])
    halves.spines["left"].set_visible(False)
    turns.set(ylim=(0.5 - len(pairs), 0.5), xlim=(-0.6, 9.6), aspect="equal")
    turns.set(xlabel="position", title="Low pairs turn fast, high ones slowly")
    turns.set_xticks(place)
    turns.set_yticks([-n for n in range(len(pairs))], [f"pair {pair}" for pair in pairs])
    turns.spines["left"].set_visible(False)
    looks = (("-", PALE, 4.0), ("-", INK, 1.0), (":", RED, 1.6))
    for (label, values), (style, colour, width) in zip(scores.items(), looks, strict=True):
        product.plot(values, style, label=label, color=colour, linewidth=width)
    product.set(
        xlabel="distance from query back to key", ylabel="q · k", title="A score sees the distance alone"
    )
    product.set_ylim(top=product.get_ylim()[1] + 0.3)
    product.legend(fontsize=SMALL, loc="upper right")


def attention(maps: Sequence[np.ndarray], *, titles: Sequence[str], tokens: Sequence[str]) -> None:
    """One causal map per head, rows are queries: maps each (S, S), tokens S."""
    _, axes = new(
        "attention",
        "Who looks at whom: each row is a query, its weights add up to 1",
        columns=(1,) * len(maps),
        size=(4.7 * len(maps), 4.9),
    )
    for axis, weights, title in zip(axes, maps, titles, strict=True):
        future = np.triu(np.ones_like(weights, dtype=bool), 1)
        axis.imshow(np.where(future, np.nan, weights), cmap="Blues", vmin=0, vmax=1)
        axis.imshow(np.where(future, 0.12, np.nan), cmap="Greys", vmin=0, vmax=1)
        labels(axis.set_xticks, tokens, rotation=90)
        labels(axis.set_yticks, tokens)
        axis.set(title=title, xlabel="key: what is looked at")
    axes[0].set_ylabel("query: who looks")


def lens(probabilities: np.ndarray, *, guesses: Sequence[Sequence[str]], tokens: Sequence[str]) -> None:
    """What the head would say after each block: both (blocks + 1, S); tokens S, those that came."""
    layers, length = probabilities.shape
    _, (axis,) = new(
        "lens",
        "The residual stream, read by the head after every block",
        size=(1.6 + 0.6 * length, 0.9 + 0.36 * layers),
    )
    image = axis.imshow(probabilities[::-1], cmap="Greens", vmin=0, vmax=1, aspect="auto")
    for row in range(layers):
        for column in range(length):
            value = probabilities[row, column]
            axis.text(
                column,
                layers - 1 - row,
                shown(guesses[row][column], 8),
                ha="center",
                va="center",
                fontsize=SMALL,
                family="monospace",
                color="white" if value > 0.6 else INK,
            )
    names = ["embedding", *(f"block {n}" for n in range(layers - 1))]
    axis.set_yticks(range(layers), names[::-1])
    axis.set_xticks(range(length), [shown(token, 8) for token in tokens], family="monospace")
    axis.set_xlabel("the token that came next")
    bar = plt.colorbar(image, ax=axis, pad=0.01)
    bar.set_label("its probability")


def temperatures(tokens: Sequence[str], probabilities: Mapping[str, Sequence[float]]) -> None:
    """The likeliest next tokens under several temperatures: label -> one probability per token."""
    _, (axis,) = new("temperature", "One place, three temperatures", size=(6.4, 2.4))
    width = 0.8 / len(probabilities)
    places = np.arange(len(tokens))
    for n, ((label, values), colour) in enumerate(zip(probabilities.items(), (BLUE, GREY, RED), strict=True)):
        axis.bar(places + (n - 1) * width, values, width, label=label, color=colour)
    axis.set_xticks(places, [shown(token) for token in tokens], family="monospace")
    axis.set(ylabel="probability", xlabel="next token")
    axis.legend(fontsize=SMALL)


def cache(
    without: np.ndarray, beside: np.ndarray, *, sizes: Mapping[str, tuple[float, float]], context: int
) -> None:
    """The work of each step without and with a cache, and what the cache takes.

    without, beside (steps, positions): 1 where the step computes, 2 where it reads what is kept. sizes:
    model -> (bytes of its cache, the same if every query head had keys of its own) for `context` tokens.
    """
    _, axes = new("cache", "What a KV cache saves, and what it costs", columns=(1, 1, 1.5), size=(9.4, 2.9))
    palette = ListedColormap(["#ffffff", RED, PALE])
    for axis, grid, title in zip(axes, (without, beside), ("Without", "With"), strict=False):
        axis.imshow(grid, cmap=palette, vmin=0, vmax=2, aspect="auto", interpolation="nearest")
        axis.set(
            title=f"{title} a cache: {int((grid == 1).sum())} computed", xlabel="position", ylabel="step"
        )
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    for colour, label in ((RED, "computed"), (PALE, "kept, and read")):
        axes[1].plot([], [], "s", color=colour, label=label)
    axes[1].legend(fontsize=SMALL, loc="upper right")
    places = np.arange(len(sizes))[::-1]
    for column, (colour, label) in enumerate(((RED, "if every query head had its own"), (BLUE, "as it is"))):
        values = [pair[1 - column] / 2**30 for pair in sizes.values()]
        bars = axes[2].barh(places + 0.2 - 0.4 * column, values, 0.38, color=colour, label=label)
        axes[2].bar_label(bars, fmt="%.1f", padding=2, fontsize=SMALL)
    axes[2].set_yticks(places, list(sizes))
    axes[2].set(xlabel="GiB", title=f"Cache of {context:,} tokens, bfloat16")
    axes[2].legend(fontsize=SMALL)


def router(weights: np.ndarray, tokens: Sequence[str]) -> None:
    """Which experts each token goes through, and with what weight: (experts, tokens), 0 where not chosen."""
    experts, length = weights.shape
    _, (axis,) = new(
        "router", "The router's choices: two experts a token", size=(1.4 + 0.3 * length, 0.9 + 0.22 * experts)
    )
    image = axis.imshow(np.where(weights > 0, weights, np.nan), cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    labels(axis.set_xticks, tokens, rotation=90)
    axis.set_yticks(range(experts), [str(n) for n in range(experts)])
    axis.set_ylabel("expert")
    axis.set_xticks(np.arange(-0.5, length), minor=True)
    axis.set_yticks(np.arange(-0.5, experts), minor=True)
    axis.grid(which="minor", color="#e5e7eb", linewidth=0.6)
    axis.tick_params(which="minor", length=0)
    plt.colorbar(image, ax=axis, pad=0.01).set_label("weight")


def surprise(panels: Mapping[str, tuple[Sequence[str], Sequence[float]]]) -> None:
    """Bits of surprise per token, on a logarithmic axis, a panel above the other: title -> (tokens, bits)."""
    plt.close("surprise")
    longest, least = max(len(tokens) for tokens, _ in panels.values()), 1e-5
    size = (min(12.5, 1 + 0.092 * longest), 1.9 * len(panels))
    figure, axes = plt.subplots(len(panels), 1, num="surprise", figsize=size, squeeze=False)
    figure.suptitle("How surprised the model is by the right tokens")
    for axis, (title, (tokens, bits)) in zip(axes[:, 0], panels.items(), strict=True):
        places = range(longest - len(tokens), longest)  # what is last stands below what is last
        colours = [RED if value >= 1 else BLUE for value in bits]
        axis.bar(places, [max(value, least) for value in bits], color=colours)
        axis.axhline(1, color=GREY, linewidth=0.8)
        axis.text(-0.4, 1.4, "1 bit: a coin toss", fontsize=SMALL, color=GREY)
        axis.set_yscale("log")
        axis.set(ylabel="bits", ylim=(least, 30), xlim=(-0.8, longest - 0.2))
        axis.set_yticks([1e-4, 1e-2, 1], ["0.0001", "0.01", "1"])
        if max(len(tokens), longest // 2) <= 160:  # else they would lie on one another
            labels(axis.set_xticks, tokens, first=places[0], rotation=90)
        axis.set_title(f"{title}: {sum(bits):.2f} bits in all", loc="left")
