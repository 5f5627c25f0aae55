"""`pureqwen info`, `models`, `train`, `download`, and the flags that mirror a dataclass."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint

from pureqwen import load, memory
from pureqwen.cli.options import PARSERS, SamplingOptions
from pureqwen.cli.train import TrainOptions
from pureqwen.config import SamplingParams, TrainConfig, preset_names
from pureqwen.memory import Memory

Run = Callable[..., Any]


def test_info_shows_blocks_sums_and_the_cache_without_a_network(pureqwen: Run) -> None:
    ran = pureqwen("info", "Qwen3-0.6B")
    assert (ran.code, ran.err) == (0, "")
    assert "preset, official values" in ran.out
    assert "596,049,920" in ran.out
    assert "KV cache: 114,688 bytes per token" in ran.out
    assert "main memory: " in ran.out
    assert len(ran.out.splitlines()) < 40


def test_info_says_what_was_reconstructed(pureqwen: Run) -> None:
    assert "reconstructed" in pureqwen("info", "Qwen/Qwen3-0.6B-Base").out


def test_info_names_the_sibling_of_a_quantised_checkpoint(pureqwen: Run) -> None:
    assert "load Qwen3-4B;" in pureqwen("info", "Qwen3-4B-AWQ").out


def test_info_in_json(pureqwen: Run, tmp_path: Path) -> None:
    found = json.loads(pureqwen("info", "--json", "Qwen3-30B-A3B").out)
    assert found["parameters"] == 30_532_122_624
    assert found["active_parameters"] < 3.4e9
    assert sum(part["parameters"] for part in found["parts"]) == found["parameters"]
    assert sum(part["flops_per_token"] for part in found["parts"]) == found["flops_per_token"]
    folder = json.loads(pureqwen("info", "--json", str(tiny_checkpoint.write(tmp_path))).out)
    assert folder["config"]["vocab_size"] == 260
    wide = json.loads(pureqwen("info", "--json", "Qwen3-30B-A3B", "--dtype", "float32").out)
    assert wide["bytes"] == 2 * found["bytes"]


def test_the_file_of_a_folder_wins_over_a_preset_of_its_name(
    pureqwen: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("Qwen3-0.6B")
    folder.mkdir()
    tiny_checkpoint.write(folder)
    assert "vocab_size" not in pureqwen("info", "Qwen3-0.6B").out
    assert "260 x 32" in pureqwen("info", "Qwen3-0.6B").out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Qwen3-5B", "did you mean Qwen3-8B?"),
        ("qq", "pureqwen models lists the released ones"),
        ("./qq", "no such folder"),
        ("a/b/c", "no such folder"),
    ],
)
def test_info_of_nothing_is_an_error(name: str, said: str, pureqwen: Run) -> None:
    ran = pureqwen("info", name)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert said in ran.err


def test_what_does_not_fit_is_said(pureqwen: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Memory(name="main memory", total=2_000_000_000, free=1_400_000_000)
    monkeypatch.setattr(sys.modules["pureqwen.cli.info"], "memories", lambda: [small])
    lines = pureqwen("info", "Qwen3-0.6B").out.splitlines()
    assert lines[-1] == "main memory: 1.40 GB free of 2.00 GB: a context of 1,812 tokens fits"
    assert [line.split()[-1] for line in lines[-5:-1]] == ["yes", "no", "no", "no"]
    assert pureqwen("info", "Qwen3-8B").out.endswith("the weights do not fit\n")


def test_main_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host", lambda: (100, 80))
    monkeypatch.setattr(memory, "cgroup_limits", lambda: iter([(50, 20)]))
    assert memory.main_memory() == Memory(name="main memory", total=50, free=30)
    monkeypatch.setattr(memory, "cgroup_limits", lambda: iter([(500, 20)]))
    assert memory.main_memory() == Memory(name="main memory", total=100, free=80)


def test_this_machine_has_memory() -> None:
    here = memory.main_memory()
    assert 0 < here.free <= here.total


def test_models_is_a_row_each_and_as_json_the_same(pureqwen: Run) -> None:
    lines = pureqwen("models").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [f"Qwen/{name}" for name in preset_names()]
    assert not any(line.endswith(" ") for line in lines)
    rows = json.loads(pureqwen("models", "--json").out)
    assert [row["name"] for row in rows] == list(preset_names())
    assert rows[8]["reconstructed"] is True
    assert "reconstructed" in lines[9]


def test_download_prints_the_folder(pureqwen: Run, tmp_path: Path) -> None:
    assert pureqwen("download", str(tmp_path)).out == f"{tmp_path}\n"


def test_sampling_flags_are_the_fields_of_sampling_params() -> None:
    fields = [field.name for field in dataclasses.fields(SamplingParams)]
    assert [field.name for field in dataclasses.fields(SamplingOptions)] == fields
    assert list(PARSERS) == fields


def test_training_flags_are_the_fields_of_train_config_with_its_defaults() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    assert {field.name: field.default for field in dataclasses.fields(TrainOptions)} == fields


def test_train_passes_everything_on_and_prints_the_folder(
    pureqwen: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pureqwen.train.run import Trained

    seen: list[Any] = []

    def train(model: str, data: Path, **settings: Any) -> Trained:
        seen.extend((model, data, settings))
        return Trained(tmp_path, (1.0,), 2)

    monkeypatch.setattr("pureqwen.train.run.train", train)
    ran = pureqwen("train", "m", "d.jsonl", "--out", "o", "--steps", "3", "--clip", "0", "--skip-long-chats")
    assert (ran.code, ran.out) == (0, f"{tmp_path}\n")
    assert ran.err == "pureqwen: notice: 2 chats were left out: they are longer than 512 tokens\n"
    model, data, settings = seen
    assert (model, data) == ("m", Path("d.jsonl"))
    assert settings == {
        "out": Path("o"),
        "config": TrainConfig(steps=3, clip=0.0, skip_long_chats=True),
        "tokenizer": None,
    }


def test_quantize_writes_a_model_that_answers_and_info_counts_its_bits(pureqwen: Run, tmp_path: Path) -> None:
    out = tmp_path / "small"
    ran = pureqwen("quantize", "pocket", str(out), "--scheme", "int4-g32")
    assert (ran.code, ran.out.strip()) == (0, str(out))
    assert "MB became" in ran.err
    assert load(out).chat("What is 3 + 4?").content == "3 + 4 = 7."
    assert "on a CPU an answer is computed by " in pureqwen("info", str(out)).out
    counted = json.loads(pureqwen("info", str(out), "--json").out)
    stored = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert abs(counted["bytes"] - stored) < 0.35 * stored  # stored in bfloat16, computed in float32
    assert {part["path"]: part["bytes"] for part in counted["parts"]}["lm_head"] < 2 * 1024 * 256


def test_a_scheme_that_there_is_not_is_named_with_those_there_are(pureqwen: Run, tmp_path: Path) -> None:
    ran = pureqwen("quantize", "pocket", str(tmp_path), "--scheme", "int5")
    assert ran.code == 2 and "int4-g32" in ran.err
    again = pureqwen("quantize", str(tmp_path / "nothing"), str(tmp_path), "--scheme", "int8")
    assert again.code == 1 and "nothing" in again.err
