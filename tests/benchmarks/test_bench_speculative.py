"""benchmarks/bench_speculative.py on a tiny model: it works, and what it tells is what was written."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import bench_speculative as bench
from pureqwen import ModelConfig, Qwen, Qwen3


def test_the_script_runs_and_writes_a_row_for_each_answer_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(bench, "TASKS", bench.TASKS[1::2])
    bench.main(["--quick", "--runs", "1", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"command", "device", "versions"} <= set(found)
    assert [row["answer"] for row in found["rows"]] == [task.name for task in bench.TASKS] * 2
    for row in found["rows"]:
        told = float(row["tokens a step"])
        assert told == 1 if row["answer"] == "new text" else told > 1.5, row


def test_the_answers_that_are_told_are_the_ones_that_are_written() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        model_type="qwen3",
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=2048,
        rope_theta=1e6,
    )
    qwen = Qwen(Qwen3(config).eval())
    words: dict[str, int] = {}
    for task in bench.TASKS:
        plain, guessed = (bench.write(qwen, task, speculative=limit) for limit in (0, bench.LIMIT))
        words.clear()
        bench.tokens(task.prompt, words)
        assert plain[0].token_ids == guessed[0].token_ids == bench.tokens(task.answer, words)
        assert plain[1] == len(plain[0].token_ids) - 1
        assert guessed[1] <= plain[1]
