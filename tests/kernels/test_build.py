"""The native library: made once whoever asks, and a reason in words wherever it can't be made."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pureqwen.kernels import build
from pureqwen.kernels.build import NoKernels, library

FAKE = """#!/bin/sh
echo run >> "{log}"
echo "$@" >> "{log}.words"
case "$1" in --version) echo "{version}"; exit 0;; esac
sleep {seconds}
for word in "$@"; do case "$last" in -o) echo made > "$word";; esac; last="$word"; done
exit {code}
"""


def fake_compiler(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    code: int = 0,
    seconds: float = 0,
    version: str = "fake 1.0",
) -> Path:
    """A `c++` that only writes down that it ran; the path of what it wrote. Beside it, ending in .words, is
    what it was told.
    """
    folder.mkdir(exist_ok=True)
    log, compiler = folder / "log", folder / "c++"
    compiler.write_text(FAKE.format(log=log, code=code, seconds=seconds, version=version))
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return log


ASKED, COMPILED = 1, 3  # how often it runs: asked for its version, and for two files and what links them


def runs(log: Path) -> int:
    return log.read_text().count("run")


def test_it_is_compiled_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_compiler(tmp_path / "bin", monkeypatch)
    first = library(tmp_path / "cache")
    assert first.read_text() == "made\n" and runs(log) == ASKED + COMPILED
    assert library(tmp_path / "cache") == first and runs(log) == 2 * ASKED + COMPILED
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".so", ".lock"}


@pytest.mark.parametrize(
    ("version", "level"), [("c++ (Debian) 12.2.0", build.LEVEL), ("Apple clang version 16.0.0", ("-O3",))]
)
def test_each_compiler_is_told_what_it_knows(
    version: str, level: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clang ends at -fvect-cost-model=dynamic, which it does not know."""
    log = fake_compiler(tmp_path / "bin", monkeypatch, version=version)
    library(tmp_path / "cache")
    told = [line.split() for line in log.with_suffix(".words").read_text().splitlines() if " -c " in line]
    assert len(told) == len(build.SOURCES)
    for words in told:
        assert tuple(words[: len(level) + 1]) == (*level, build.FLAGS[0])


def test_another_source_or_processor_is_another_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(tmp_path / "bin", monkeypatch)
    found = {library(tmp_path / "cache")}
    monkeypatch.setattr(build, "_processor", lambda: "flags: other")
    found.add(library(tmp_path / "cache"))
    sources = shutil.copytree(build.FOLDER, tmp_path / "sources")
    monkeypatch.setattr(build, "FOLDER", sources)
    assert library(tmp_path / "cache") in found  # wherever they are
    for name in (*build.HEADERS, *build.SOURCES):
        with open(sources / name, "a") as file:
            file.write("// changed")
        found.add(library(tmp_path / "cache"))
    assert len(found) == 2 + len(build.HEADERS) + len(build.SOURCES)


def test_processes_that_start_together_compile_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, cache = fake_compiler(tmp_path / "bin", monkeypatch, seconds=1), str(tmp_path / "cache")
    code = f"from pathlib import Path; from pureqwen.kernels.build import library; library(Path({cache!r}))"
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert runs(log) == 3 * ASKED + COMPILED


def test_no_compiler_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoKernels, match=r"no C\+\+ compiler"):
        library(tmp_path / "cache")


def test_a_compiler_that_fails_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(tmp_path / "bin", monkeypatch, code=1)
    with pytest.raises(NoKernels, match=r"c\+\+ failed"):
        library(tmp_path / "cache")
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_a_compiler_that_takes_too_long_is_ended_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(tmp_path / "bin", monkeypatch, seconds=30)
    monkeypatch.setattr(build, "LIMIT", 0.2)
    started = time.monotonic()
    with pytest.raises(NoKernels, match=r"c\+\+ took more than 0.2 s"):
        library(tmp_path / "cache")
    assert time.monotonic() - started < 20
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_a_folder_that_can_t_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path / "bin", monkeypatch)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NoKernels, match="can't be written"):
        library(tmp_path / "file" / "cache")


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_the_real_source_compiles_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GCC 12's header of AVX-512 leaves variables without a value on purpose, and warns of them.
    silent = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-Wall", "-Werror", *silent))
    monkeypatch.setattr(build, "LIMIT", 300)
    assert library(tmp_path).stat().st_size > 10_000
