"""The wheel and the sdist: pure Python, complete, and an answer without a network in an empty environment."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long


def run(*command: object, **options: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def dist(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `python -m build` leaves an sdist, and a wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, root)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def test_the_wheel_is_pure_python_and_holds_every_file_of_the_package(wheel: Path, root: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = root / "src"
    files = {p.relative_to(package).as_posix() for p in (package / "pureqwen").rglob("*") if p.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert {name for name in inside if ".dist-info/" not in name} == files
    models = {"pureqwen/pocket/model.safetensors", "pureqwen/pocket_moe/model-00001-of-00002.safetensors"}
    assert {"pureqwen/py.typed", *models} <= inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_the_wheel_is_small_enough_to_send_around(wheel: Path) -> None:
    assert wheel.stat().st_size < 24_000_000  # most of it are the two models


def test_the_sdist_carries_the_tests_and_what_they_read(dist: Path) -> None:
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    wanted = {
        "tests/surface/test_distribution.py",
        "docs/generate.py",
        "Makefile",
        "constraints.txt",
        "LICENSE",
    }
    assert wanted <= names
    assert any(name.startswith("recipes/pocket/") for name in names)


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", folder / "venv")
    pip = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "-q", "-c", root / "constraints.txt"]
    run(*pip, wheel, timeout=900)
    return folder


def test_the_wheel_answers_in_an_empty_environment_without_a_network(elsewhere: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(elsewhere), "HF_HUB_OFFLINE": "1"}
    command = [elsewhere / "venv" / "bin" / "pureqwen", "generate"]
    if (
        shutil.which("unshare")
        and not subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode
    ):
        command = ["unshare", "-rn", *command]  # no network at all, not even the loopback
    printed = run(*command, input="What is 347 * 86?", env=environment, cwd=elsewhere, timeout=60)
    assert "29842" in printed
    assert "<think>" not in printed


def test_importing_the_wheel_needs_no_development_package(elsewhere: Path) -> None:
    code = "import pureqwen, importlib.util as u; [getattr(pureqwen, n) for n in pureqwen.__all__]"
    code += "; assert u.find_spec('transformers') is None and u.find_spec('pytest') is None"
    run(elsewhere / "venv" / "bin" / "python", "-c", code, cwd=elsewhere)
