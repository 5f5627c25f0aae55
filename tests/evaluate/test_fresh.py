"""The program that loads a model in a process of its own, and what is made of its failures."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pureqwen.evaluate import fresh
from pureqwen.qwen import Qwen

PROCFS = Path("/proc/self/status").is_file()


@pytest.fixture
def job(qwen: Qwen, tmp_path: Path) -> fresh.Job:
    qwen.save(tmp_path)
    threads = torch.get_num_threads()
    return fresh.Job(
        folder=str(tmp_path), dtype="float32", device="cpu", threads=threads, context=64, prompt=8
    )


def test_the_program_says_when_it_has_come_where(job: fresh.Job, capsys: pytest.CaptureFixture[str]) -> None:
    fresh.main(json.dumps(asdict(replace(job, answer=4))))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["torch", "loaded", "first", "memory"]
    memory = json.loads(lines[-1].removeprefix("memory "))
    assert (memory is not None and memory >= 0) if PROCFS else memory is None


def script(folder: Path, text: str) -> str:
    """A program in Python's place."""
    path = folder / "program"
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_parent_takes_the_time_of_each_line(
    job: fresh.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "for line in ('torch', 'loaded', 'first', 'memory 1234'): print(line, flush=True)"
    monkeypatch.setattr(fresh.sys, "executable", script(tmp_path, text))
    found = fresh.run(job)
    assert list(found.seconds) == ["torch", "loaded", "first"]
    assert 0 < found.seconds["torch"] <= found.seconds["loaded"] <= found.seconds["first"]
    assert found.memory == 1234


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import sys; print('a warning', file=sys.stderr); sys.exit('ValueError: no weights')",
            "no weights$",
        ),
        ("raise SystemExit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
def test_a_process_that_fails_is_one_line(
    text: str, said: str, job: fresh.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh.sys, "executable", script(tmp_path, text))
    with pytest.raises(OSError, match=f"the process that measures start and memory failed: .*{said}"):
        fresh.run(job)


def test_what_the_system_does_not_tell_is_not_known(monkeypatch: pytest.MonkeyPatch, qwen: Qwen) -> None:
    monkeypatch.setattr(fresh, "status", lambda field: None)
    assert fresh.held(qwen, fresh.resident()) is None
