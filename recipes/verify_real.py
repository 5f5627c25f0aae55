"""Compare real checkpoints with published values: `make verify-real`, on a machine with a network.

1. Qwen/Qwen3-0.6B-Base in float32: its parameter count, the logits that transformers' own slow test expects
   (their mean at each position and the first 30 at the first one), and the greedy continuation of one prompt.
   The values and their tolerances are in tests/golden/numerical_reference.json.
2. Qwen/Qwen3-0.6B in its own dtype: one answer with thinking, one without.

Downloads about 2.7 GB the first time. Prints a line for each check; ends with 0 when all hold, else with 1.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pureqwen

BASE, CHAT = "Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-0.6B"
REFERENCE = Path(__file__).resolve().parent.parent / "tests" / "golden" / "numerical_reference.json"
NUM_PARAMETERS = 596_049_920  # as the hub counts them, a tied head once
QUESTION, ANSWER = "What is the capital of France? Answer in one sentence.", "Paris"


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, whether it holds, and the figures."""

    name: str
    holds: bool
    figures: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.holds else 'FAIL'} {self.name}: {self.figures}"


def logits_case(reference: dict[str, Any]) -> dict[str, Any]:
    """The published logits that were computed in float32; the older ones are rounded to bfloat16."""
    cases = (case for case in reference["needs_weights"] if case["model"] == BASE)
    return next(c for c in cases if c["test"] == "test_model_600m_logits" and "newer" in c["source"])


def text_case(reference: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in reference["needs_weights"] if c["model"] == BASE and "expected_text" in c)


def close(name: str, found: Tensor, expected: list[float], tolerance: float) -> Check:
    """As torch.testing.assert_close has it: |found - expected| <= tolerance * (1 + |expected|)."""
    wanted = torch.tensor(expected)
    if found.shape != wanted.shape:
        return Check(name, False, f"{tuple(found.shape)} numbers, {tuple(wanted.shape)} expected")
    difference = (found.cpu().float() - wanted).abs()
    holds = bool((difference <= tolerance * (1 + wanted.abs())).all())  # NaN does not hold
    return Check(name, holds, f"largest difference {difference.max():.2e}, tolerance {tolerance:.0e}")


def check_base(qwen: Any, reference: dict[str, Any]) -> Iterator[Check]:
    count = sum(parameter.numel() for parameter in qwen.model.parameters())
    yield Check("number of parameters", count == NUM_PARAMETERS, f"{count:,}, expected {NUM_PARAMETERS:,}")
    case = logits_case(reference)
    device = next(qwen.model.parameters()).device
    with torch.inference_mode():
        logits = qwen.model(torch.tensor([case["input_ids"]], device=device))[0]  # (S, V)
    yield close("mean of the logits", logits.mean(-1), case["logits_mean_last_dim"], case["tol"])
    yield close("first 30 logits", logits[0, :30], case["logits_0_0_first30"], case["tol_slice"])
    case = text_case(reference)
    text = case["prompt"] + qwen.generate(case["prompt"], temperature=0.0, max_tokens=20).text
    yield Check("greedy text", text == case["expected_text"], repr(text))


def check_chat(qwen: Any) -> Iterator[Check]:
    messages = [{"role": "user", "content": QUESTION}]
    for thinking in (True, False):
        result = qwen.chat(messages, thinking=thinking, seed=0, max_tokens=4096)
        right = ANSWER in (result.content or "") and result.finish_reason == "stop"
        thought = bool(result.reasoning)
        yield Check(
            f"an answer {'with' if thinking else 'without'} thinking",
            right and thought == thinking,
            f"{len(result.reasoning or '')} characters of thinking, then {result.content!r}",
        )


def verify(load: Callable[..., Any]) -> Iterator[Check]:
    reference = json.loads(REFERENCE.read_text())
    yield from check_base(load(BASE, dtype="float32"), reference)
    yield from check_chat(load(CHAT))


def main(load: Callable[..., Any] = pureqwen.load) -> int:
    failed = 0
    try:
        for check in verify(load):
            print(check, flush=True)
            failed += not check.holds
    except (ValueError, OSError) as error:
        print(f"verify-real: {error}", file=sys.stderr)
        return 1
    print(f"{failed} checks failed" if failed else "all checks hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
