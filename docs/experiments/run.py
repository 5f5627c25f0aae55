"""All three experiments: trained, drawn, and put on docs/change-a-block.md.

    python docs/experiments/run.py            train (a quarter of an hour, divided by the number of cores) and
                                              keep what was found in benchmarks/results/experiments.json, then
                                              as below
    python docs/experiments/run.py --page     only draw and write, from what is kept

Each run is repeated with other seeds: other first weights, other chats in another order. Runs of one seed see
the same chats in the same order, so their losses are compared step by step.
"""

import argparse
import importlib
import json
import platform
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lab import STEPS, Found, show

EXPERIMENTS = ("swap_mlp", "sliding_window", "router")
HERE = Path(__file__).parent
PAGE = HERE.parent / "change-a-block.md"
RESULT = HERE.parents[1] / "benchmarks" / "results" / "experiments.json"
BLOCK = re.compile(r"(<!-- experiments: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SMOOTH = 10  # steps whose mean is one point of a curve
COLOURS = ("#222222", "#2b6cb0", "#c0392b")


def train(seeds: int, steps: int) -> dict[str, Any]:
    """What the experiments find, as it is kept: smoothed curves and shares, a list of one for each seed."""
    found: dict[str, Any] = {name: {"curves": {}, "shares": {}} for name in EXPERIMENTS}
    jobs = [(name, seed, steps) for seed in range(seeds) for name in EXPERIMENTS]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
        for (name, seed, _), result in zip(jobs, workers.map(one, jobs), strict=True):
            print(f"{name}, seed {seed}", flush=True)
            show(result)
            for run, losses in result.curves.items():
                found[name]["curves"].setdefault(run, []).append(smoothed(losses))
            for run, layers in result.shares.items():
                rounded = [[round(share, 3) for share in layer] for layer in layers]
                found[name]["shares"].setdefault(run, []).append(rounded)
    return {
        "command": f"python docs/experiments/run.py --seeds {seeds} --steps {steps}",
        "device": f"{platform.machine()} cpu, 1 thread a run",
        "versions": {"torch": torch.__version__},
        "rows": [row for name in EXPERIMENTS for row in rows(name, found[name]["curves"])],
        "experiments": found,
    }


def one(job: tuple[str, int, int]) -> Found:
    """One experiment with one seed, in a process of its own, on one thread: fastest for so small a model."""
    name, seed, steps = job
    torch.set_num_threads(1)
    found: Found = importlib.import_module(name).experiment(seed=seed, steps=steps)
    return found


def smoothed(losses: list[float]) -> list[float]:
    parts = [losses[n : n + SMOOTH] for n in range(0, len(losses), SMOOTH)]
    return [round(sum(part) / len(part), 4) for part in parts]


def rows(name: str, curves: dict[str, list[list[float]]]) -> list[dict[str, str]]:
    """A table's rows: where each run ends, and how much higher that is than the first run, seed by seed."""
    ends = {run: [sum(c[-5:]) / len(c[-5:]) for c in of_seeds] for run, of_seeds in curves.items()}
    first = next(iter(ends.values()))
    made = []
    for run, losses in ends.items():
        more = [a - b for a, b in zip(losses, first, strict=True)]
        made.append(
            {
                "experiment": name,
                "run": run,
                "loss": f"{sum(losses) / len(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})",
                "more than the first": ""
                if losses is first
                else f"{sum(more) / len(more):+.3f} ({min(more):+.3f} to {max(more):+.3f})",
            }
        )
    return made


def draw(result: dict[str, Any]) -> None:
    """A picture for each experiment: the losses, how they differ, and for the router who is used."""
    import matplotlib.pyplot as plt

    settings = {
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with plt.rc_context(settings):
        for name, kept in result["experiments"].items():
            columns = 3 if kept["shares"] else 2
            figure, axes = plt.subplots(1, columns, figsize=(3.6 * columns, 2.8), layout="constrained")
            draw_losses(axes[0], axes[1], kept["curves"])
            if kept["shares"]:
                draw_shares(axes[2], kept["shares"])
            figure.savefig(HERE / f"{name}.png", dpi=110, metadata={"Software": None})
            plt.close(figure)


def draw_losses(left: Any, right: Any, curves: dict[str, list[list[float]]]) -> None:
    first = torch.tensor(next(iter(curves.values())))  # (seeds, points)
    steps = SMOOTH * (torch.arange(first.shape[-1]) + 0.5)
    for (run, of_seeds), colour in zip(curves.items(), COLOURS, strict=False):
        losses = torch.tensor(of_seeds)
        for axes, values in ((left, losses), (right, losses - first)):
            axes.plot(steps, values.mean(0), color=colour, label=run)
            axes.fill_between(steps, values.amin(0), values.amax(0), color=colour, alpha=0.2, linewidth=0)
    left.set(title="loss", xlabel="step")
    left.legend()
    right.set(title=f"the same, less that of {next(iter(curves))}", xlabel="step")


def draw_shares(axes: Any, shares: dict[str, list[list[list[float]]]]) -> None:
    for number, ((run, of_seeds), colour) in enumerate(zip(shares.items(), COLOURS[1:], strict=False)):
        ordered = torch.tensor(of_seeds).sort(-1, descending=True).values.mean(0)  # (layers, E)
        layers, num_experts = ordered.shape
        places = torch.arange(num_experts) + (num_experts + 1) * torch.arange(layers)[:, None]
        axes.bar((places + 0.4 * number).flatten(), ordered.flatten(), 0.4, color=colour, label=run)
        axes.set_xticks((places[:, num_experts // 2]).tolist(), [f"layer {n}" for n in range(layers)])
    axes.axhline(1 / num_experts, color=COLOURS[0], linewidth=0.8)
    axes.set(title="share of the choices, busiest expert first")


def code(name: str, result: dict[str, Any]) -> str:
    return f"```python\n{(HERE / f'{name}.py').read_text()}```"


def table(name: str, result: dict[str, Any]) -> str:
    mine = [row for row in result["rows"] if row["experiment"] == name]
    lines = ["| run | loss of the last 50 steps | more than the first, seed by seed |", "|---|---|---|"]
    return "\n".join(lines + [f"| {r['run']} | {r['loss']} | {r['more than the first']} |" for r in mine])


def measured(name: str, result: dict[str, Any]) -> str:
    versions = ", ".join(f"{library} {version}" for library, version in result["versions"].items())
    return f"`{result['command']}` on {result['device']}; {versions}."


BLOCKS = {"code": code, "table": table, "measured": measured}


def filled(text: str, result: dict[str, Any]) -> str:
    """The page with its blocks written again."""
    return BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]](found[3], result)}\n{found[4]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--page", action="store_true", help="train nothing: draw and write what is kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    if not options.page:
        text = json.dumps(train(options.seeds, options.steps), indent=2)
        RESULT.write_text(
            re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"
        )
    result = json.loads(RESULT.read_text())
    draw(result)
    PAGE.write_text(filled(PAGE.read_text(), result))


if __name__ == "__main__":
    main()
