"""`measure`: a model's speed, start and memory, each beside its limit on this machine, as one Report.

What runs in processes of its own comes last, when native code has been compiled and the weights' files lie in
the page cache.
"""

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pureqwen import kernels
from pureqwen.evaluate import fresh
from pureqwen.evaluate.limits import measure_limits
from pureqwen.evaluate.profile import Profile, profile_step
from pureqwen.evaluate.report import MemoryUse, Report, Speed, Start
from pureqwen.evaluate.roofline import Roof, roof_of, work_of
from pureqwen.evaluate.speed import Plan, Sample, prompt_and_answer, steps_behind
from pureqwen.explain import Ledger, ledger
from pureqwen.qwen import Qwen

PROFILED = 8  # steps

Watch = Callable[[str], None]


def measure(qwen: Qwen, folder: Path, plan: Plan, *, watch: Watch = lambda stage: None) -> Report:
    """Measure a model that was loaded from a folder; `watch` is told what is being measured.

    plan: clipped to the model's context. Raises OSError where the fresh processes fail.
    """
    dtype = dtype_of(qwen)
    found = machine(qwen.device)
    counted = ledger(qwen.config, dtype=dtype)
    bits = min(part.bits for part in counted.parts)
    watch("the limits of this machine")
    limits = measure_limits(qwen.device, num_bytes=plan.buffer, runs=plan.runs)
    roof, roof_dtype = roof_of(limits.read, limits.peaks, dtype=dtype, bits=bits)
    speeds = measure_speeds(qwen, plan, counted, roof, watch)
    watch("where a step's time goes")
    profile = profile_step(qwen, cached=plan.prompt, steps=min(PROFILED, plan.answer))
    job = job_of(qwen, folder, dtype)
    watch("the start of a fresh process")
    start = measure_start(job, plan)
    watch("memory")
    return Report(
        name=qwen.name,
        dtype=dtype,
        counted=counted,
        machine=found,
        limits=limits,
        roof=roof,
        roof_dtype=roof_dtype,
        path=path_of(qwen, profile),
        speeds=speeds,
        start=start,
        memory=measure_memory(job, plan, counted),
        profile=profile,
    )


def measure_speeds(qwen: Qwen, plan: Plan, counted: Ledger, roof: Roof, watch: Watch) -> tuple[Speed, ...]:
    """Prompt, decode, batch, and what lies behind a long text, where the context has room for one."""

    def speed(name: str, sample: Sample, *, batch: int = 1, cached: int, now: int = 1) -> Speed:
        middle = cached + (plan.answer // 2 if cached else 0)  # of the steps, each one token further
        work = work_of(counted, [(middle, now)] * batch)
        tokens = batch * now
        return Speed(
            name=name, batch=batch, cached=cached, tokens=tokens, sample=sample, work=work, roof=roof
        )

    watch(f"a prompt of {plan.prompt} tokens, and an answer")
    prompt, answer = prompt_and_answer(qwen, plan)
    watch(f"{plan.batch} answers at once")
    batch = steps_behind(qwen, plan, batch=plan.batch, cached=plan.batch_prompt)
    found = [
        speed("prefill", prompt, cached=0, now=plan.prompt),
        speed("decode", answer, cached=plan.prompt),
        speed("batch", batch, batch=plan.batch, cached=plan.batch_prompt),
    ]
    if plan.long > plan.prompt:
        watch(f"an answer behind {plan.long:,} tokens")
        long = steps_behind(qwen, plan, batch=1, cached=plan.long)
        found.append(speed("long", long, cached=plan.long))
    return tuple(found)


def job_of(qwen: Qwen, folder: Path, dtype: str) -> fresh.Job:
    """What a fresh process needs to run the same."""
    return fresh.Job(
        folder=str(folder),
        dtype=dtype,
        device=str(qwen.device),
        threads=torch.get_num_threads(),
        context=qwen.context,
        prompt=1,
    )


def measure_start(job: fresh.Job, plan: Plan) -> Start:
    runs = [fresh.run(replace(job, prompt=plan.start_prompt)) for _ in range(plan.starts)]

    def of(stage: str) -> Sample:
        return Sample(tuple(run.seconds[stage] for run in runs))

    return Start(
        prompt=plan.start_prompt,
        torch=of("torch").median,
        loaded=of("loaded").median,
        first=of("first"),
    )


def measure_memory(job: fresh.Job, plan: Plan, counted: Ledger) -> MemoryUse | None:
    """None where this system does not tell."""
    held = fresh.run(replace(job, prompt=plan.prompt, answer=plan.answer)).memory
    cache = counted.cache_bytes * (plan.prompt + plan.answer)
    return None if held is None else MemoryUse(held=held, weights=counted.weight_bytes, cache=cache)


def path_of(qwen: Qwen, profile: Profile) -> str:
    """Which code computes a decode step, and why not native code where it does not."""
    if profile.native:
        return f"native code ({', '.join(profile.native)}) and PyTorch"
    if qwen.device.type != "cpu":
        return f"PyTorch: native code is for CPUs, this is {qwen.device.type}"
    reason = kernels.native() or "no native operator was seen in a step"
    return f"PyTorch: {reason}"


def dtype_of(qwen: Qwen) -> str:
    """What is not quantised is held and computed in it."""
    return str(qwen.dtype).removeprefix("torch.")


def machine(device: torch.device) -> dict[str, Any]:
    """The device in words, and what matters for its speed."""
    return {
        "processor": processor(),
        "system": platform.system(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "load": load(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def load() -> float | None:
    """How many programs want to run, on average over the last minute; None where the system has no such."""
    with suppress(AttributeError, OSError):
        return os.getloadavg()[0]
    return None


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
