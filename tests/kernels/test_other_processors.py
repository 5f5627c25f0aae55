"""What the native code has for processors with AVX-512, and for those with nothing, run on others.

For the first avx512/immintrin.h, instructions in plain C++, stands before the compiler's header of that name.
The tests beside this one then run with the library that comes of it. What stays untested of it: the two lines
of assembly, which are replaced, that the processor's product of bfloat16 makes subnormal results zero, and
the system's permission to use units for matrices.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pureqwen.kernels import build

HERE = Path(__file__).parent
TESTS = [str(HERE / f"test_{name}.py") for name in ("products", "experts", "between")]
RUN = """
import sys
from pathlib import Path
import pytest, torch
from pureqwen import kernels

kernels.library = lambda: Path(sys.argv[1])
assert kernels.native() is None, kernels.native()
assert kernels.attends_blocks(torch.zeros(1, 1, 32, dtype=torch.bfloat16)) == (sys.argv[2] == "True")
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[3:]]))
"""
INSTRUCTION = r'asm\("(vdpbf16ps|vpdpbusd) %2, %1, %0"[^;]*;'  # named where no intrinsic will do
REGISTER = r'asm\("" : "\+v"\(v\)\);'  # asks for one that isn't there

PERMISSION = r"syscall\(.*?\) == 0"  # asked for units that aren't there

needs_avx2 = pytest.mark.skipif(
    shutil.which("c++") is None or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="a C++ compiler and a processor with AVX2 are needed",
)


def replace(pattern: str, new: str, folder: Path, times: int) -> None:
    found = 0
    for name in (*build.HEADERS, *build.SOURCES):
        text, here = re.subn(pattern, new, (folder / name).read_text())
        (folder / name).write_text(text)
        found += here
    assert found == times, f"{pattern} is {found} times in the sources"


@needs_avx2
@pytest.mark.parametrize(
    "sets",
    [
        pytest.param((), id="F", marks=pytest.mark.long),
        pytest.param(("VNNI",), id="VNNI", marks=pytest.mark.long),
        pytest.param(("VNNI", "BF16"), id="VNNI+BF16"),
        pytest.param(("VNNI", "BF16", "AMX"), id="AMX"),
    ],
)
def test_the_code_for_avx512_passes_the_tests_of_the_kernels(
    sets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = shutil.copytree(build.FOLDER, tmp_path / "sources")
    replace(INSTRUCTION, r"total = avx512::\1(total, a, b);", sources, 2)
    replace(REGISTER, "", sources, 1)
    replace(PERMISSION, "true", sources, 1)
    defined = (f"-DAVX512_{name}" for name in sets)
    flags = ("-mavx2", "-mfma", *defined, f"-I{HERE / 'avx512'}", *build.FLAGS[1:])
    monkeypatch.setattr(build, "FOLDER", sources)
    monkeypatch.setattr(build, "LEVEL", ("-O1",))
    monkeypatch.setattr(build, "FLAGS", flags)
    assert_passes(tmp_path, monkeypatch, attends_blocks="BF16" in sets)


@needs_avx2
@pytest.mark.long
def test_the_code_without_vector_instructions_passes_the_tests_of_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FLAGS", ("-march=x86-64", *build.FLAGS[1:]))
    assert_passes(tmp_path, monkeypatch, attends_blocks=False)


def assert_passes(folder: Path, monkeypatch: pytest.MonkeyPatch, *, attends_blocks: bool) -> None:
    monkeypatch.setattr(build, "LIMIT", 600)
    command = [sys.executable, "-c", RUN, str(build.library(folder)), str(attends_blocks), *TESTS]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout and " failed" not in done.stdout
