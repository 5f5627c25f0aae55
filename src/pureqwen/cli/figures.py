"""What `pureqwen bench` shows: limits, figures with their shares, the roofline, a step's operators."""

from pureqwen.cli.info import size
from pureqwen.cli.roofline import Point, draw
from pureqwen.cli.terminal import plain_table, show_table, stdout
from pureqwen.evaluate.profile import IN_ONE_CALL
from pureqwen.evaluate.report import Report, Speed

BAR = 30  # columns
BUSY = 0.6  # programs that want to run, for each core, when the measuring begins


def show_report(report: Report) -> None:
    show_head(report)
    show_limits(report)
    show_speeds(report)
    show_rest(report)
    show_roofline(report)


def show_head(report: Report) -> None:
    machine, screen = report.machine, stdout()
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    screen.line(
        f"{report.name}: {report.counted.parameters:,} parameters, {size(report.counted.weight_bytes)}, "
        f"{report.dtype} on {machine['device']}"
    )
    screen.line(f"{machine['gpu'] or machine['processor']}, {machine['vectors']}, {threads}")
    screen.line(f"a step runs in {report.path}")
    if machine["load"] is not None and machine["load"] > BUSY * machine["cores"]:
        load = f"load {machine['load']:.1f} on {machine['cores']} cores"
        screen.line(f"OTHER PROGRAMS WERE RUNNING ({load}): all figures are lower than they would be alone")
    screen.line()


def show_limits(report: Report) -> None:
    limits = report.limits
    table = plain_table("limit of this machine", "measured")
    table.add_row(f"reading memory, by {limits.read_by}", f"{limits.read / 1e9:,.1f} GB/s")
    table.add_row("copying memory, read and written", f"{limits.copy / 1e9:,.1f} GB/s")
    for dtype, peak in limits.peaks.items():
        unit = "GOP/s" if dtype.startswith("int") else "GFLOP/s"
        words = "of 4-bit weights by int8" if dtype == "int4" else f"in {dtype}"
        table.add_row(f"matrix products {words}", f"{peak / 1e9:,.1f} {unit}")
    show_table(table)
    stdout().line()


def show_speeds(report: Report) -> None:
    table = plain_table("tokens/s", "median", "from", "to", "limit", "share", "limited by")
    for speed in report.speeds:
        rates = [speed.tokens / seconds for seconds in speed.sample.seconds]
        figures = (speed.tokens_per_second, min(rates), max(rates), speed.limit)
        table.add_row(label(speed), *map(figure, figures), f"{speed.share:.0%}", speed.bound)
    show_table(table)
    above = {speed.bound for speed in report.speeds if speed.share > 1}
    if "memory" in above:
        stdout().line("More than 100%: the weights fit into a cache, which is faster than the memory.")
    elif above:
        stdout().line("More than 100%: the machine was slower while its limit was measured.")
    stdout().line()


def show_rest(report: Report) -> None:
    start, memory, screen = report.start, report.memory, stdout()
    screen.line(
        f"start   {start.first.median:.2f} s from a new process to the first token of a prompt of "
        f"{start.prompt}; torch is there after {start.torch:.2f} s, the model after {start.loaded:.2f} s"
    )
    if memory is None:
        screen.line(f"memory  not known here; weights are {size(report.counted.weight_bytes)}")
    else:
        screen.line(
            f"memory  {size(memory.held)} while running; weights and cache are "
            f"{size(memory.weights + memory.cache)} of it, {memory.share:.0%}"
        )
    screen.line()


def show_roofline(report: Report) -> None:
    screen = stdout()
    for line in draw(report.roof, points(report), width=min(screen.width, 80) - 1):
        screen.line(line)
    screen.line(
        f"The lines are the limit: reading memory, then products in {report.roof_dtype}, from "
        f"{report.roof.ridge:,.1f} operations per byte on."
    )


def show_profile(report: Report) -> None:
    """A bar for each kind of operator; the longest fills its room."""
    kinds, watched = report.profile.kinds, report.profile.watched
    decode = next(speed for speed in report.speeds if speed.name == "decode")
    screen, longest = stdout(), max(kinds.values())
    screen.line()
    screen.line(
        f"A step of an answer takes {1e3 * decode.sample.median:.2f} ms; watched by the profiler, "
        f"{1e3 * watched:.2f} ms:"
    )
    width = max(map(len, kinds))
    for kind, seconds in kinds.items():
        if seconds:
            bar = "#" * max(1, round(BAR * seconds / longest))
            screen.line(f"{kind:<{width}} {1e3 * seconds:9.2f} ms {seconds / watched:5.0%}  {bar}")
    if set(report.profile.native) & set(IN_ONE_CALL):
        screen.line("What native code does in one call is split as its operations take time one by one.")


def points(report: Report) -> list[Point]:
    """What was measured, as points under the roof."""
    return [
        Point(name=label(speed), intensity=speed.work.intensity, rate=speed.flops_per_second)
        for speed in report.speeds
    ]


def label(speed: Speed) -> str:
    """A figure in words."""
    if speed.name == "prefill":
        return f"prompt of {speed.tokens:,}"
    who = f"{speed.batch} answers" if speed.batch > 1 else "answer"
    return f"{who} after {speed.cached:,}"


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}"
