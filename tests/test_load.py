"""`load`: what it takes for an argument, and what it refuses before anything is read."""

import logging
from pathlib import Path
from typing import Any

import peers
import pytest
import torch

import pureqwen
from pureqwen.weights import load as loading
from pureqwen.weights import load_model, save_model


@pytest.mark.parametrize("context", [True, 0, -1, 4097, 10**9, 1.5, "5", float("nan")])
def test_a_context_that_is_no_count_of_tokens_is_refused(context: Any) -> None:
    with pytest.raises(ValueError, match=r"context is .*: it must be 1 to 4096"):
        pureqwen.load(context=context)


@pytest.mark.parametrize("device", ["gpu", "", "meta", "cuda:77", 1.5, [], 10**9])
def test_a_device_that_can_not_be_used_is_not_replaced_in_silence(device: Any) -> None:
    with pytest.raises(ValueError, match="can't be used here"):
        pureqwen.load(device=device)


def test_the_slow_dtype_is_noticed_where_it_costs_something(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled model answers at once in either: its demo begins with the answer, not with a warning."""
    config = peers.tiny()
    save_model(peers.build(config).bfloat16(), tmp_path, config=config)
    config = pureqwen.ModelConfig.from_pretrained(tmp_path)
    monkeypatch.setattr(loading, "fast_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING):
        load_model(tmp_path, config)
        assert not caplog.text
        monkeypatch.setattr(loading, "LARGE", 1000)
        load_model(tmp_path, config, dtype="bfloat16")  # asked for: nothing to say
        assert not caplog.text
        assert next(load_model(tmp_path, config).parameters()).dtype == torch.bfloat16
    assert "multiplies bfloat16 slowly" in caplog.text
