"""Presets: every released model by name, equal to the official files, counted right."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pureqwen.config import ModelConfig, preset_info, preset_names, supported_models_table
from pureqwen.model import Qwen3

# Billions of the model cards: total, without the vocabulary tables, active for a token.
PUBLISHED = {
    "Qwen3-0.6B": (0.6, 0.44, None),
    "Qwen3-1.7B": (1.7, 1.4, None),
    "Qwen3-4B": (4.0, 3.6, None),
    "Qwen3-8B": (8.2, 6.95, None),
    "Qwen3-14B": (14.8, 13.2, None),
    "Qwen3-32B": (32.8, 31.2, None),
    "Qwen3-30B-A3B": (30.5, 29.9, 3.3),
    "Qwen3-235B-A22B": (235, 234, 22),
    "Qwen3-Coder-30B-A3B-Instruct": (30.5, None, 3.3),
    "Qwen3-Coder-480B-A35B-Instruct": (480, None, 35),
    "Qwen3-4B-Instruct-2507": (4.0, 3.6, None),
}
# Exact counts: metadata of the hub, and file sizes minus headers.
EXACT = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "Qwen3-Coder-480B-A35B-Instruct": 480_154_875_392,
    "Qwen3-Coder-30B-A3B-Instruct": 30_532_122_624,
    "Qwen3-4B-Instruct-2507": 4_022_468_096,
    "Qwen3-Embedding-0.6B": 595_776_512,
}
ACTIVE = {
    "Qwen3-30B-A3B": 3_353_032_704,
    "Qwen3-235B-A22B": 22_190_763_520,
    "Qwen3-Coder-480B-A35B-Instruct": 35_474_765_312,
}


def test_a_preset_equals_the_official_file(official: dict[str, dict[str, Any]]) -> None:
    del official["Qwen3-Next-80B-A3B-Instruct"]
    assert sorted(preset_names()) == sorted(official)
    for name, config in official.items():
        assert ModelConfig.preset(name) == ModelConfig.from_dict(config), name


@functools.cache
def built(config: ModelConfig) -> int:
    """The numbers in the model itself, without memory for them."""
    with torch.device("meta"):
        model = Qwen3(config)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", preset_names())
def test_the_count_is_that_of_the_model_itself(name: str) -> None:
    config = ModelConfig.preset(name)
    # What has no part in the count is made equal, so that each shape is built once.
    shape = dataclasses.replace(
        config,
        max_position_embeddings=1,
        rope_theta=1e6,
        torch_dtype="bfloat16",
        bos_token_id=None,
        eos_token_id=None,
        router_aux_loss_coef=0.0,
        quantization_config=None,
    )
    assert built(shape) == config.num_parameters()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_counts_are_the_published_ones(name: str) -> None:
    config = ModelConfig.preset(name)
    total, without_tables, active = PUBLISHED[name]
    assert config.num_parameters() / 1e9 == pytest.approx(total, rel=0.02)
    if without_tables is not None:
        assert config.num_non_embedding_parameters() / 1e9 == pytest.approx(without_tables, rel=0.02)
    if active is not None:
        assert config.num_active_parameters() / 1e9 == pytest.approx(active, rel=0.02)


def test_the_counts_are_exact_where_the_hub_knows_them() -> None:
    assert {name: ModelConfig.preset(name).num_parameters() for name in EXACT} == EXACT
    assert {name: ModelConfig.preset(name).num_active_parameters() for name in ACTIVE} == ACTIVE


def test_a_tied_head_is_counted_once() -> None:
    config = ModelConfig.preset("Qwen3-0.6B")
    assert config.num_embedding_parameters() == 151_936 * 1024
    assert ModelConfig.preset("Qwen3-8B").num_embedding_parameters() == 2 * 151_936 * 4096


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_written_and_read_back_equal(name: str) -> None:
    config = ModelConfig.preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen/Qwen3-0.6B", "qwen/qwen3-0.6b", "QWEN3-0.6B"])
def test_a_preset_is_found_with_and_without_owner_in_any_case(name: str) -> None:
    assert preset_info(name).name == "Qwen3-0.6B"
    assert preset_info(name).hub_id == "Qwen/Qwen3-0.6B"


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no preset 'Qwen3-0\.7B': did you mean .*Qwen3-0\.6B"):
        ModelConfig.preset("Qwen3-0.7B")
    with pytest.raises(ValueError, match="known are Qwen3-0"):
        ModelConfig.preset("gpt")


def test_a_preset_whose_file_was_not_seen_says_so() -> None:
    reconstructed = {name for name in preset_names() if preset_info(name).reconstructed}
    assert reconstructed == {
        "Qwen3-0.6B-Base",
        "Qwen3-1.7B-Base",
        "Qwen3-4B-Base",
        "Qwen3-14B-Base",
        "Qwen3-30B-A3B-Base",
        "Qwen3-235B-A22B-Thinking-2507",
        "Qwen3-Reranker-8B",
        "Qwen3-30B-A3B-GPTQ-Int4",
        "Qwen3Guard-Gen-0.6B",
        "Qwen3Guard-Gen-4B",
        "Qwen3Guard-Gen-8B",
    }


def test_a_file_wins_over_the_preset_of_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen3-0.6B"
    folder.mkdir()
    content = ModelConfig.preset("Qwen3-0.6B").to_dict() | {"rope_theta": 5e6}
    (folder / "config.json").write_text(json.dumps(content))
    assert ModelConfig.from_pretrained(folder).rope_theta == 5e6


def test_a_quantised_preset_names_the_sibling_to_load_instead() -> None:
    quantised = {
        info.name: info.unquantized for info in map(preset_info, preset_names()) if info.quantization
    }
    assert quantised == {
        "Qwen3-32B-FP8": "Qwen3-32B",
        "Qwen3-30B-A3B-FP8": "Qwen3-30B-A3B",
        "Qwen3-235B-A22B-FP8": "Qwen3-235B-A22B",
        "Qwen3-4B-AWQ": "Qwen3-4B",
        "Qwen3-30B-A3B-GPTQ-Int4": "Qwen3-30B-A3B",
    }
    assert preset_info("Qwen3-8B").unquantized == "Qwen3-8B"


def test_the_table_has_a_row_for_each_model_and_marks_the_reconstructed() -> None:
    rows = supported_models_table().splitlines()
    assert len(rows) == 2 + len(preset_names())
    assert len({row.count("|") for row in rows}) == 1
    assert "| Qwen3-0.6B | 0.60 B | 0.60 B | 28 | 1,024 | 16 / 8 | 40,960 | hybrid | official |" in rows
    assert next(row for row in rows if "Qwen3-0.6B-Base" in row).endswith("| reconstructed |")
