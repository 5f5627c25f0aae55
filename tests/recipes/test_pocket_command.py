"""`python -m recipes.pocket`, at toy size: it trains, goes on where it stopped, exports and reports."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pureqwen
from pureqwen.train import StepLog
from recipes.pocket import __main__ as command
from recipes.pocket import peek
from recipes.pocket.tasks import TASKS


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> command.Run:
    """Twelve steps on 600 chats, a checkpoint every four."""
    torch.set_num_threads(1)
    small = replace(command.TRAINING, batch_size=1, warmup_steps=2, save_every=4, log_every=2, compile=False)
    monkeypatch.setattr(command, "TRAINING", small)
    monkeypatch.setattr(command, "POLISH", small)
    monkeypatch.setattr(command, "Peek", lambda qwen, path: peek.Peek(qwen, path, every=6, count=1))
    monkeypatch.setattr(peek, "MAX_TOKENS", 2)
    # room for the sentence that closes a thought
    monkeypatch.setattr("recipes.pocket.evaluate.MAX_TOKENS", {True: 120, False: 3})
    monkeypatch.setattr("recipes.pocket.evaluate.BUDGETS", (0,))
    yield command.Run(
        work=tmp_path / "work",
        into=tmp_path / "pocket",
        results=tmp_path / "r.json",
        num_chats=600,
        polish_chats=60,
        steps=12,
        count=1,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("name", ["pocket", "pocket-moe"])
def test_one_command_makes_a_pocket_and_goes_on_where_it_was_stopped(
    name: str, run: command.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = name == "pocket-moe"
    run = replace(run, name=name)

    class Stop(peek.Peek):
        def __call__(self, log: StepLog) -> None:
            if log.step == 7:
                raise KeyboardInterrupt

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(command, "Peek", Stop)
        command.main(run)
    assert not run.into.exists()
    data = (run.work / "train.jsonl").stat().st_mtime_ns
    command.main(run)
    assert (run.work / "train.jsonl").stat().st_mtime_ns == data  # written once
    assert [line["step"] for line in lines(run.work / "log.jsonl")] == [2, 4, 6, 8, 10, 12]
    assert len(lines(run.polish / "train.jsonl")) == run.polish_chats  # the second stage
    (line,) = lines(run.work / "peeks.jsonl")
    assert line["step"] in (6, 12) and set(line) == {"step", *(task.name for task in TASKS)}
    weights = {path.name for path in run.into.glob("*.safetensors")}
    assert len(weights) == (2 if experts else 1)
    index = {"model.safetensors.index.json"} if experts else set()
    others = {*command.FILES, "config.json", "generation_config.json", "README.md"}
    assert {path.name for path in run.into.iterdir()} == weights | index | others
    qwen = pureqwen.load(run.into)
    assert qwen.dtype == torch.float32 and qwen.chat("Hi", max_tokens=2).token_ids
    assert qwen.config.num_experts == (8 if experts else 0)
    card = (run.into / "README.md").read_text()
    assert ("8 experts of SwiGLU 256, 2 of them for a token" in card) == experts
    result = json.loads(run.results.read_text())
    assert result["command"] == f"python -m recipes.pocket.evaluate {name} --count 1"
    assert len(result["rows"]) == len(TASKS) and result["budgets"][-1]["budget"] is None


def test_a_look_is_bounded_in_its_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr(peek, "perf_counter", lambda: next(clock))
    qwen = pureqwen.load(dtype="float32")
    look = peek.Peek(qwen, tmp_path / "peeks.jsonl", every=2, count=1)
    monkeypatch.setattr(look, "_shares", lambda: {"addition": 50})
    for step in range(1, 400):
        look(StepLog(step, 400, 0.0, 0.0, 0.0, 0, 0.0))
    looks = [line["step"] for line in lines(tmp_path / "peeks.jsonl")]
    assert looks[0] == 2 and all(step % 2 == 0 for step in looks)
    # each look takes 10 of a clock that each step moves by 10: one look in some 33 steps
    assert 6 <= len(looks) <= 14
    assert qwen.model.training


def test_a_look_counts_right_answers_by_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qwen = pureqwen.load(dtype="float32")
    look = peek.Peek(qwen, tmp_path / "peeks.jsonl", every=1, count=2)
    monkeypatch.setattr(peek, "answers", lambda qwen, chats, **fields: [(chat, None) for chat in chats])
    wanted = [id(chat["messages"][-1]) for chat in look._chats["addition"]]
    monkeypatch.setattr(
        "recipes.pocket.evaluate.is_right", lambda result, expected: id(expected) in wanted[:1]
    )
    assert look._shares() == {task.name: 50 if task.name == "addition" else 0 for task in TASKS}
