"""Surprise: the log-probabilities of a text, in pieces, are those that generating it gives."""

import math
from collections.abc import Callable

import pytest
import torch

from pureqwen.config import ModelConfig
from pureqwen.explain import surprise as module
from pureqwen.explain.surprise import surprise
from pureqwen.model import Qwen3
from pureqwen.qwen import Qwen


@pytest.fixture(scope="module")
def model() -> Qwen3:
    config = ModelConfig(
        model_type="qwen3",
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=1000,
        rope_theta=1e6,
        initializer_range=0.3,
        tie_word_embeddings=True,
        torch_dtype="float32",
    )
    torch.manual_seed(0)
    return Qwen3(config).eval()


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return torch.randint(300, (90,), generator=torch.Generator().manual_seed(0)).tolist()


def test_it_is_the_log_softmax_of_the_raw_logits(model: Qwen3, ids: list[int]) -> None:
    with torch.inference_mode():
        expected = model(torch.tensor(ids)).log_softmax(-1)
    scores = surprise(model, ids, start=1, top=3)
    assert [score.token_id for score in scores] == ids[1:]
    for row, token, score in zip(expected, ids[1:], scores, strict=False):
        assert score.logprob == pytest.approx(row[token].item(), abs=1e-4)
        values, tokens = row.topk(3)
        assert [(token, text) for token, text, _ in score.top] == [(t, str(t)) for t in tokens.tolist()]
        assert [value for _, _, value in score.top] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("start", [1, 2, 31, 32, 33, 89, 90])
def test_neither_the_pieces_nor_the_start_change_it(
    start: int, model: Qwen3, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = surprise(model, ids)
    monkeypatch.setattr(module, "CHUNK", 32)
    monkeypatch.setattr(module, "ROWS", 5)
    part = surprise(model, ids, start=start)
    assert [score.token_id for score in part] == ids[start:]
    assert [score.logprob for score in part] == pytest.approx(
        [score.logprob for score in whole[start - 1 :]], abs=1e-4
    )


def test_it_never_holds_the_logits_of_many_positions(
    model: Qwen3, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    logits: Callable[..., torch.Tensor] = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: rows.append(len(hidden)) or logits(hidden))
    surprise(model, ids)
    assert max(rows) <= module.ROWS < len(ids)


def test_generating_gives_the_same_numbers(model: Qwen3, ids: list[int]) -> None:
    result = Qwen(model).generate(ids[:20], max_tokens=30, temperature=1.0, top_logprobs=5, seed=3)
    assert result.logprobs is not None and len(set(result.token_ids)) >= 12
    again = surprise(model, ids[:20] + result.token_ids, start=20)
    for one, other in zip(again, result.logprobs, strict=True):
        assert one.token_id == other.token_id
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [token for token, _, _ in one.top] == [token for token, _, _ in other.top]


@pytest.mark.parametrize("start", [0, -1, 91])
def test_a_start_that_is_none_is_refused(start: int, model: Qwen3, ids: list[int]) -> None:
    with pytest.raises(ValueError, match=f"start is {start}: it must be 1 to 90"):
        surprise(model, ids, start=start)


def test_bits_are_what_a_uniform_guess_costs(model: Qwen3) -> None:
    """A head of zeros knows nothing: each token costs log(V)."""
    empty = Qwen3(model.config)
    torch.nn.init.zeros_(empty.lm_head.weight)
    assert surprise(empty, [1, 2, 3])[0].logprob == pytest.approx(-math.log(300))
