"""The script for machines with a network can't run here, but what it judges can be judged with a stand-in."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "recipes" / "verify_real.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_real", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["verify_real"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Model(torch.nn.Module):
    """Gives the published logits: the first 30 as they are, the rest such that the means come out."""

    def __init__(self, case: dict[str, Any], *, error: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(596_049_920, device="meta"))
        first, means = torch.tensor(case["logits_0_0_first30"]), torch.tensor(case["logits_mean_last_dim"])
        self.logits = means[:, None].repeat(1, 100)  # (S, V)
        self.logits[0, :30] = first
        self.logits[0, 30:] = (100 * means[0] - first.sum()) / 70
        self.logits[0, 7] += error
        self.ids = [case["input_ids"]]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        assert ids.tolist() == self.ids
        return self.logits[None]


class Qwen:
    """What the script uses of a loaded model."""

    def __init__(self, script: ModuleType, *, error: float = 0.0, answer: str = "Paris.") -> None:
        self.reference = json.loads(script.REFERENCE.read_text())
        self.model = Model(script.logits_case(self.reference), error=error)
        self.answer = answer

    def generate(self, prompt: str, *, temperature: float, max_tokens: int) -> Any:
        assert (temperature, max_tokens) == (0.0, 20)
        text = "100% plain, unflavoured, and unadulterated. It is"
        return SimpleNamespace(text=text)

    def chat(self, messages: Any, *, thinking: bool, seed: int, max_tokens: int) -> Any:
        reasoning = "The user asks for a capital." if thinking else None
        return SimpleNamespace(reasoning=reasoning, content=self.answer, finish_reason="stop")


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, **choices: Any) -> tuple[int, list[Any]]:
    loaded: list[Any] = []

    def load(name: str, *, dtype: str = "auto") -> Qwen:
        loaded.append((name, dtype))
        return Qwen(script, **choices)

    # The stand-in has its numbers on the meta device only to be counted.
    monkeypatch.setattr(script.torch, "tensor", lambda data, device=None: torch.as_tensor(data))
    return script.main(load), loaded


def test_the_published_values_hold_for_a_model_that_gives_them(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, loaded = run(script, monkeypatch)
    out = capsys.readouterr().out
    assert code == 0, out
    assert loaded == [("Qwen/Qwen3-0.6B-Base", "float32"), ("Qwen/Qwen3-0.6B", "auto")]
    assert out.count("ok  ") == 6 and out.endswith("all checks hold\n")


@pytest.mark.parametrize(
    ("choices", "failing"),
    [
        ({"error": 0.002}, "first 30 logits"),
        ({"error": float("nan")}, "mean of the logits"),
        ({"answer": "Berlin."}, "an answer without thinking"),
        ({"answer": None}, "an answer with thinking"),
    ],
)
def test_a_model_that_is_slightly_off_fails_and_the_check_is_named(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    choices: dict[str, Any],
    failing: str,
) -> None:
    code, _ = run(script, monkeypatch, **choices)
    out = capsys.readouterr().out
    assert code == 1 and f"FAIL {failing}" in out and "checks failed" in out


def test_the_reference_of_the_tests_is_the_one_that_is_judged(script: ModuleType) -> None:
    reference = json.loads(script.REFERENCE.read_text())
    assert script.logits_case(reference)["tol"] == 1e-4
    assert script.logits_case(reference)["logits_0_0_first30"][0] == 4.6905
    assert script.text_case(reference)["prompt"] == "My favourite condiment is "


def test_without_a_network_it_ends_with_one_line_and_exit_code_1(tmp_path: Path) -> None:
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:1"}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("verify-real: "), done.stderr
    assert "network" in lines[0] and "Qwen/Qwen3-0.6B-Base" in lines[0]
