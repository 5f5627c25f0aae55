"""`pureqwen bench`: how fast a model runs on this machine, and how near that is to the machine's limits."""

import json as json_lines
import os
import platform
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pureqwen import __version__
from pureqwen.cli.errors import notice
from pureqwen.cli.options import MODEL, ModelOptions, flag
from pureqwen.cli.picture import check_picture, save_picture
from pureqwen.cli.terminal import stderr
from pureqwen.memory import memories

if TYPE_CHECKING:
    from pureqwen.evaluate.speed import Plan
    from pureqwen.qwen import Qwen


def bench(
    model: Annotated[
        str, flag("A folder, a name on the hub such as Qwen/Qwen3-0.6B, pocket or pocket-moe.")
    ] = "pocket",
    /,
    *,
    quick: Annotated[
        bool, flag("Fewer and shorter runs: under 3 minutes for a 0.6B model.", negative="")
    ] = False,
    profile: Annotated[
        bool, flag("Show where the time of a step goes, by kind of operator.", negative="")
    ] = False,
    plot: Annotated[
        Path | None, flag("Draw the roofline into this .png or .svg file; it needs matplotlib.")
    ] = None,
    json: Annotated[Path | None, flag("Write all that was measured into this file.")] = None,
    threads: Annotated[int | None, flag("Of the CPU. [default: torch's choice; 1 for a small model]")] = None,
    dtype: Annotated[str, flag("auto, bfloat16 or float32.", MODEL)] = "auto",
    device: Annotated[str | None, flag("cuda, mps or cpu. [default: the first that is there]", MODEL)] = None,
    revision: Annotated[str | None, flag("A branch, tag or commit on the hub.", MODEL)] = None,
    context: Annotated[
        int | None, flag("Most tokens of prompt and answer together. [default: the model's]", MODEL)
    ] = None,
) -> None:
    """Measure a model's speed and memory here, beside the limits of this machine.

    First the limits: how fast memory is read, how fast matrices are multiplied. Then a prompt, an answer,
    eight answers at once, an answer behind a long text, the start of a fresh process, and memory: medians of
    several runs, each with its share of what the machine could do. It ends with the roofline, drawn in text.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler announces itself in every run
    if plot is not None:
        check_picture(plot)
    check_folder(json)
    options = ModelOptions(model=model, dtype=dtype, device=device, revision=revision, context=context)
    asked = Bench(options=options, quick=quick, threads=threads)
    from pureqwen.cli.figures import show_profile, show_report
    from pureqwen.evaluate.measure import measure  # brings torch
    from pureqwen.weights import resolve

    qwen = asked.load()
    try:
        report = measure(qwen, resolve(model, revision=revision), asked.plan(qwen), watch=watch)
    finally:
        stderr().erase_line()
    show_report(report)
    if profile:
        show_profile(report)
    if plot is not None:
        save_picture(report, plot)
    if json is not None:
        plain = {"command": asked.command(), "versions": versions(), **report.as_plain()}
        json.write_text(json_lines.dumps(plain, indent=2) + "\n")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is measured, as it was asked for."""

    options: ModelOptions
    quick: bool
    threads: int | None

    def load(self) -> "Qwen":
        """The model, with the threads that are to be measured. Raises ValueError for less than one."""
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}: it must be at least 1")
        qwen = self.options.load()
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        return qwen

    def plan(self, qwen: "Qwen") -> "Plan":
        """How much is measured, for this model and the memory that is free."""
        from pureqwen.cache.static import bytes_per_token
        from pureqwen.evaluate.speed import Plan

        plan = Plan.quick() if self.quick else Plan()
        place = memories()[(qwen.device.index or 0) + 1 if qwen.device.type == "cuda" else 0]
        room = place.free // 2 // bytes_per_token(qwen.config, qwen.dtype)
        clipped = plan.clipped(qwen.context, room=room)
        if clipped.long < plan.clipped(qwen.context, room=plan.long).long:
            notice(f"{place.name} has room for a cache of {clipped.long:,} tokens only")
        return replace(clipped, buffer=min(clipped.buffer, place.free // 8))

    def command(self) -> str:
        """The command that measures the same again."""
        options = self.options
        words = {
            "--dtype": options.dtype if options.dtype != "auto" else None,
            "--device": options.device,
            "--revision": options.revision,
            "--context": options.context,
            "--threads": self.threads,
        }
        given = [word for name, value in words.items() if value is not None for word in (name, str(value))]
        return shlex.join(["pureqwen", "bench", options.model, *["--quick"] * self.quick, *given])


def check_folder(path: Path | None) -> None:
    """Before minutes are spent: that the file can be written. Raises ValueError."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} into")


def watch(stage: str) -> None:
    """On a terminal, what is being measured."""
    screen = stderr()
    if screen.movable:
        screen.erase_line()
        screen.write(f"measuring {stage} ...", dim=True)


def versions() -> dict[str, Any]:
    import torch

    return {"pureqwen": __version__, "torch": torch.__version__, "python": platform.python_version()}
