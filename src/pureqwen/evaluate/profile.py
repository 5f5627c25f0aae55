"""Where the time of a decode step goes: by kind of operator, and between the operators.

torch.profiler says of each operator how long it ran without those that it called. What is left of the time
belongs to no operator: Python, and on a GPU the waiting for the CPU. A step runs slower while it is watched,
by some microseconds an operator, so the step's time without a profiler is to be shown beside it.

The names of the operators also say which path runs: whose name begins with pureqwen:: is native code. Native
code may do a block's work, or that of all blocks, in one call; then the step is watched a second time with
each operation called by itself, and the call's time is told by kind as theirs is.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

from pureqwen.evaluate.limits import wait
from pureqwen.evaluate.speed import filled_cache, forwards
from pureqwen.qwen import Qwen
from pureqwen.rewrite.fuse import one_by_one

NATIVE = "pureqwen::"
PRODUCTS, ATTENTION, GLUE, COPIES, ELEMENTWISE, OTHER, BETWEEN = (
    "matrix products",
    "attention",
    "native norms and gates",
    "copies, lookups",
    "norms and elementwise",
    "views and others",
    "between operators",
)
IN_ONE_CALL = ("blocks", "attention", "feed_forward")  # native operators that do the work of several
OURS = (f"native {PRODUCTS}", f"native {ATTENTION}", GLUE)
KINDS = (*OURS, PRODUCTS, ATTENTION, COPIES, ELEMENTWISE, OTHER, BETWEEN)
PATTERNS = (  # the first that matches an operator's name
    (OURS[0], re.compile(rf"{NATIVE}\w*(linear|product|route|expert)")),
    (OURS[1], re.compile(rf"{NATIVE}\w*(attention|pages)")),
    (GLUE, re.compile(NATIVE)),
    (
        ATTENTION,
        re.compile(r"\w+::_?(scaled_dot_product|flash_attention|efficient_attention|cudnn_attention)"),
    ),
    (PRODUCTS, re.compile(r"(aten|mkldnn|onednn)::(_?\w*(mm|matmul|linear|addmv|mv|dot)\w*|\w+pack_mm\w*)$")),
    (
        COPIES,
        re.compile(
            r"aten::(_?to|_to_copy|copy_|clone|contiguous|cat|stack|index\w*|_index_put_impl_|gather|embedding"
            r"|fill_|zero_|zeros\w*|lift_fresh|repeat_interleave|scatter\w*|select_copy)$"
        ),
    ),
    (
        ELEMENTWISE,
        re.compile(
            r"aten::_?(mul|add|sub|div|neg|pow|rsqrt|sqrt|mean|sum|silu|sigmoid|softmax|exp|cos|sin|square|abs"
            r"|amax|round|where|masked_fill|le|lt|ge|gt|eq|ne|clamp|sub|rms_norm|fused_rms_norm|max|min"
            r"|reciprocal|maximum|minimum|addcmul)_?$"
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Seconds of a step by kind, in the order of KINDS, and the names of the native operators in it.

    watched: seconds of a step with the profiler, the sum of all kinds.
    """

    kinds: dict[str, float]
    native: tuple[str, ...]
    watched: float


def profile_step(qwen: Qwen, *, cached: int, steps: int) -> Profile:
    """The average of some decode steps behind so many tokens."""
    spent, seconds = watch(qwen, cached=cached, steps=steps)
    if not any(is_whole(name) for name, _ in spent):
        return split(spent, seconds=seconds, steps=steps)
    with one_by_one():
        apart, _ = watch(qwen, cached=cached, steps=steps)
    return split(spent, seconds=seconds, steps=steps, apart=apart)


def watch(qwen: Qwen, *, cached: int, steps: int) -> tuple[list[tuple[str, float]], float]:
    """Operators with the seconds that each ran without those that it called, and the time of all steps."""
    cache = filled_cache(qwen, batch=1, cached=cached, limit=cached + steps + 1)
    running = forwards(qwen, cache, cached=cached, steps=steps)
    next(running)  # warms up
    on_gpu = qwen.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        wait(qwen.device)
        started = time.perf_counter()
        for _ in running:
            pass
        wait(qwen.device)
        seconds = time.perf_counter() - started
    spent = [
        (event.key, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6)
        for event in profiler.key_averages()
        if event.device_type.name == "CPU"  # the kernels' own events would count a second time
    ]
    return spent, seconds


def split(
    spent: Iterable[tuple[str, float]],
    *,
    seconds: float,
    steps: int,
    apart: Iterable[tuple[str, float]] = (),
) -> Profile:
    """From (operator, its own seconds) and the time of all steps to a step's seconds by kind.

    apart: the same of steps in which no native call does the work of several operations.
    """
    kinds, native, one_call = dict.fromkeys(KINDS, 0.0), set(), 0.0
    for name, own in spent:
        if name.startswith(NATIVE):
            native.add(name.removeprefix(NATIVE))
        if is_whole(name):
            one_call += own / steps
        else:
            kinds[kind_of(name)] += own / steps
    inside = {kind: -kinds[kind] for kind in OURS}  # what is native outside of the call is so both times
    for name, own in apart:
        if (kind := kind_of(name)) in inside:
            inside[kind] += own / steps
    inside = {kind: max(0.0, found) for kind, found in inside.items()}
    whole = sum(inside.values())
    for kind, found in inside.items():
        kinds[kind] += one_call * found / whole if whole else one_call / len(inside)
    kinds[BETWEEN] = max(0.0, seconds / steps - sum(kinds.values()))
    return Profile(kinds=kinds, native=tuple(sorted(native)), watched=seconds / steps)


def is_whole(name: str) -> bool:
    """Whether it is a native operator that does the work of several."""
    return name.startswith(NATIVE) and name.removeprefix(NATIVE) in IN_ONE_CALL


def kind_of(name: str) -> str:
    """The kind of an operator, by its name."""
    return next((kind for kind, pattern in PATTERNS if pattern.match(name)), OTHER)
