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
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

SOURCES = Path(__file__).parent  # a folder: all .cpp in it, and the headers beside them
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wno-psabi")
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
    path = folder / f"{_key(version)}.so"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():  # another process may have made it while this one waited
                _compile(compiler, path)
    except OSError as error:
        raise NoKernels(f"{folder} can't be written: {error.strerror or error}") from error
    return path


def _key(version: str) -> str:
    """A name for what a compiler of this version makes of this source on this machine."""
    parts = (
        *(file.read_text() for file in sorted(SOURCES.iterdir()) if file.suffix in (".h", ".cpp")),
        " ".join(FLAGS),
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


def _compile(compiler: str, path: Path) -> None:
    _log.warning("compiling native code for this processor, once: a few seconds")
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, ThreadPoolExecutor() as pool:
        made = {source: f"{folder}/{source.stem}.o" for source in sorted(SOURCES.glob("*.cpp"))}

        def run(*words: str) -> None:
            try:
                command = (compiler, *words)
                done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
            except subprocess.TimeoutExpired as error:
                raise NoKernels(f"{compiler} took more than {LIMIT} s") from error
            if done.returncode:
                lines = done.stderr.splitlines()
                first = next((line for line in lines if "error" in line), done.stderr[:200])
                raise NoKernels(f"{compiler} failed: {first.strip()}")

        def compile_one(source: Path) -> None:
            run(*FLAGS, f"-I{root / 'include'}", "-c", str(source), "-o", made[source])

        list(pool.map(compile_one, made))
        library = f"{folder}/{path.name}"
        run("-shared", *made.values(), f"-L{root / 'lib'}", "-ltorch_cpu", "-ltorch", "-o", library)
        os.replace(library, path)
