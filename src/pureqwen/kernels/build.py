"""ops.cpp -> a library that torch loads: compiled once for this machine, kept in the user's cache.

    ~/.cache/pureqwen/kernels/<source, torch, compiler, processor>.so

The first process compiles while others wait at a lock; a half-written file never gets the final name.
Whatever fails (no compiler, a folder that can't be written, another system) is a reason to go on without.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("ops.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++20", "-fPIC", "-shared", "-Wno-psabi")
PARALLEL = ("-flto=auto",)  # with which GCC's second half works on all cores
LIMIT = 120  # seconds for the compiler


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
                _compile(compiler, path, is_gcc="Free Software Foundation" in version)
    except OSError as error:
        raise NoKernels(f"{folder} can't be written: {error.strerror or error}") from error
    return path


def _key(version: str) -> str:
    """A name for what a compiler of this version makes of this source on this machine."""
    parts = (
        SOURCE.read_text(),
        " ".join((*FLAGS, *PARALLEL)),
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


def _compile(compiler: str, path: Path, *, is_gcc: bool) -> None:
    root = Path(torch.__file__).parent
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    _log.warning("compiling native code for this processor, once: a few seconds")
    paths = (f"-I{root / 'include'}", f"-L{root / 'lib'}")
    command = [compiler, *FLAGS, *paths, str(SOURCE), "-o", temporary, "-ltorch_cpu", "-ltorch"]
    try:
        for more in (PARALLEL, ()) if is_gcc else ((),):  # a GCC may have been built without it
            done = subprocess.run(
                [*command, *more], capture_output=True, text=True, timeout=LIMIT, check=False
            )
            if not done.returncode:
                break
        else:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise NoKernels(f"{compiler} failed: {first.strip()}")
        os.replace(temporary, path)
    except subprocess.TimeoutExpired as error:
        raise NoKernels(f"{compiler} took more than {LIMIT} s") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
