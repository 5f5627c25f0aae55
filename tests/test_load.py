"""`load`: what it takes for an argument, and hostile files beside the weights."""

import json
import logging
import os
import shutil
import subprocess
import sys
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
    monkeypatch.setattr(loading, "slow_bfloat16", lambda: True)
    with caplog.at_level(logging.WARNING):
        load_model(tmp_path, config)
        assert not caplog.text
        monkeypatch.setattr(loading, "LARGE", 1000)
        load_model(tmp_path, config, dtype="bfloat16")  # asked for: nothing to say
        assert not caplog.text
        assert next(load_model(tmp_path, config).parameters()).dtype == torch.bfloat16
    assert "multiplies bfloat16 slowly" in caplog.text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(Path(pureqwen.__file__).parent / "pocket", copy)
    return copy


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "\xff"}', b"[" * 100_000, b"\0" * 9])
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_a_broken_file_is_a_value_error_that_names_it(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        pureqwen.load(folder)


def test_a_template_that_is_no_text_is_a_value_error_that_names_it(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"chat_template\.jinja is not a text in UTF-8"):
        pureqwen.load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "chat_template.jinja"])
def test_a_folder_in_the_place_of_an_optional_file_is_no_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert pureqwen.load(folder).generate([1, 2], max_tokens=1).token_ids


@pytest.mark.parametrize("kind", ["folder", "dead link", "pipe"])
def test_weights_that_are_no_file_are_not_waited_for(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    weights.unlink()
    make = {"folder": Path.mkdir, "dead link": lambda path: path.symlink_to("nowhere"), "pipe": os.mkfifo}
    make[kind](weights)
    with pytest.raises(ValueError, match="has no weights"):
        pureqwen.load(folder)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_hidden_layers": 10_000},
        {"hidden_size": 2**31 - 1, "intermediate_size": 2**31 - 1},
        {"num_attention_heads": 2**30, "num_key_value_heads": 2**30, "head_dim": 2**30},
    ],
)
def test_a_config_of_absurd_size_is_refused_before_it_is_built(folder: Path, sizes: dict[str, int]) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **sizes}))
    with pytest.raises(ValueError, match=r"config describes .* parameters, but the files hold"):
        pureqwen.load(folder)


def test_an_answer_does_not_import_the_compiler() -> None:
    """torch._dynamo takes more than a second to import, at every start."""
    asked = "pureqwen.load().chat('Hi', max_tokens=2)"
    program = f"import sys, pureqwen; {asked}; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
