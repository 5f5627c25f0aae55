"""Start-up and memory, measured in processes of their own: nothing is imported, mapped or warm there yet.

The parent starts this file as a program and takes the time of each line that it prints: "torch" (imported),
"loaded", "first" (token); the last line is JSON with the memory. The weights' files lie in the page cache.

Memory is what the process holds at its peak, anonymous and mapped (the weights' files among the latter), over
what it held after imports and tokenizer. The kernel keeps that peak (VmHWM), and writing 5 to clear_refs sets
it back to what is resident now. On CUDA it is the peak of torch's allocator; elsewhere it is not known.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pureqwen.qwen import Qwen


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a fresh process does: load the folder, read a prompt of so many ids, write so many tokens."""

    folder: str
    dtype: str
    device: str
    threads: int
    context: int
    prompt: int
    answer: int = 1


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """Seconds from the start of a process until each line, and bytes of memory (None: not known here)."""

    seconds: Mapping[str, float]
    memory: int | None


def run(job: Job) -> Fresh:
    """Do the job in a fresh process. Raises OSError with what that process said, where it failed."""
    command = [sys.executable, "-m", "pureqwen.evaluate.fresh", json.dumps(asdict(job))]
    seconds, last = {}, ""
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                last = line.strip()
                seconds[last.split(" ")[0]] = time.perf_counter() - started
        errors.seek(0)
        said = errors.read().strip()
    if process.returncode:
        why = said.splitlines()[-1] if said else f"exit code {process.returncode}"
        raise OSError(f"the process that measures start and memory failed: {why}")
    seconds.pop("memory")
    return Fresh(seconds=seconds, memory=json.loads(last.removeprefix("memory ")))


def main(text: str) -> None:
    """The program."""
    job = Job(**json.loads(text))
    import torch

    torch.set_num_threads(job.threads)
    print("torch", flush=True)
    from pureqwen.qwen import load
    from pureqwen.tokenizer import Tokenizer

    if job.answer > 1 and (Path(job.folder) / "tokenizer.json").is_file():  # not where the start is timed
        Tokenizer.from_pretrained(job.folder)
    before = resident()
    qwen = load(job.folder, dtype=job.dtype, device=job.device, context=job.context)
    print("loaded", flush=True)
    ids = torch.randint(0, qwen.config.vocab_size, (job.prompt,)).tolist()
    qwen.generate(ids, temperature=0, max_tokens=1, ignore_eos=True)
    print("first", flush=True)
    if job.answer > 1:
        qwen.generate(ids, temperature=0, max_tokens=job.answer, ignore_eos=True)
    print("memory", json.dumps(held(qwen, before)), flush=True)


def resident() -> int | None:
    """Bytes that the process holds now, and from which on its peak is counted; None where no one tells."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def held(qwen: "Qwen", before: int | None) -> int | None:
    """The peak over `before`, in bytes."""
    if qwen.device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(qwen.device)
    peak = status("VmHWM")
    return None if peak is None or before is None or qwen.device.type != "cpu" else peak - before


def status(field: str) -> int | None:
    """Bytes, from /proc/self/status."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    return None


if __name__ == "__main__":
    main(sys.argv[1])
