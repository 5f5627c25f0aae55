"""The C++ beside it -> a library that torch loads: compiled once for a machine, kept in the user's cache.

    ~/.cache/pureqwen/kernels/<sources, torch, compiler, processor>.so

The first process compiles, all files side by side, while others wait at a lock; a half-written library never
gets the final name.
Whatever fails (no compiler, a folder that can't be written, another system) is a reason to go on without.
"""

import hashlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
SOURCES = ("products.cpp", "blocks.cpp")
HEADERS = ("ops.h", "amx.h")
COMPILERS = ("c++", "g++", "clang++")
# What the loops need of GCC's -O3: those over registers unrolled, those over memory vectorised. The rest
# takes a tenth of the time to compile and makes nothing faster.
LEVEL = ("-O2", "-ftree-vectorize", "-fpeel-loops", "-fvect-cost-model=dynamic")
FLAGS = ("-march=native", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wno-psabi")
LINKS = ("-shared", "-ltorch_cpu", "-ltorch")
LIMIT = 120  # seconds for the compiler, each time that it is called


_log = logging.getLogger(__name__)


class NoKernels(Exception):
    """Why there is no native code here."""


def library(cache: Path | None = None) -> Path:
    """The compiled library, made if need be. Raises NoKernels."""
    if os.name != "posix":
        raise NoKernels("native code is built on Linux and macOS only")
    import fcntl  # which other systems lack

    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NoKernels("there is no C++ compiler (c++, g++ or clang++)")
    folder = cache or Path.home() / ".cache" / "pureqwen" / "kernels"
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    level = ("-O3",) if "clang" in version.lower() else LEVEL  # which knows nothing of models of cost
    path = folder / f"{_key(version, level)}.so"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():  # another process may have made it while this one waited
                _compile(compiler, path, level)
    except OSError as error:
        raise NoKernels(f"{folder} can't be written: {error.strerror or error}") from error
    return path


def _key(version: str, level: tuple[str, ...]) -> str:
    """A name for what a compiler of this version makes of this source on this machine."""
    parts = (
        *((FOLDER / name).read_text() for name in (*HEADERS, *SOURCES)),
        " ".join((*level, *FLAGS, *LINKS)),
        torch.__version__,
        version,
        platform.machine(),
        _processor(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """What the processor can do; a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(compiler: str, path: Path, level: tuple[str, ...]) -> None:
    _log.warning("compiling native code for this processor, once: some ten seconds")
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = {name: f"{folder}/{name}.o" for name in SOURCES}
        library, flags = f"{folder}/{path.name}", (*level, *FLAGS, f"-I{root / 'include'}")
        _run([[compiler, *flags, "-c", str(FOLDER / name), "-o", made[name]] for name in SOURCES])
        _run([[compiler, *made.values(), f"-L{root / 'lib'}", *LINKS, "-o", library]])
        os.replace(library, path)


def _run(commands: list[list[str]]) -> None:
    """All side by side; whatever ends this ends them."""
    running: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            silent, kept = subprocess.DEVNULL, subprocess.PIPE
            one = subprocess.Popen(command, stdout=silent, stderr=kept, text=True, start_new_session=True)
            running.append(one)
        for process, command in zip(running, commands, strict=True):
            errors = process.communicate(timeout=LIMIT)[1]
            if process.returncode:
                first = next((line for line in errors.splitlines() if "error" in line), errors[:200])
                raise NoKernels(f"{command[0]} failed: {first.strip()}")
    except subprocess.TimeoutExpired as error:
        raise NoKernels(f"{commands[0][0]} took more than {LIMIT} s") from error
    finally:
        for process in running:
            with process:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with what it has started itself
