"""A checkpoint written in fewer bits is what rounding the loaded model gives, bit for bit."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import peers
import pytest
import torch
from safetensors.torch import load_file, save_file

from pureqwen import Qwen, load
from pureqwen.config.quantization import SCHEMES
from pureqwen.rewrite import quantize
from pureqwen.weights import WeightError, convert, save_model
from pureqwen.weights.convert import quantize_folder

WIDE = {"hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 256}
SHAPES = {
    "tied": {"tie_word_embeddings": True, **WIDE},
    "untied": WIDE,
    "moe": {**peers.MOE, **WIDE, "moe_intermediate_size": 128},
    "mixed": {**peers.MOE, **WIDE, "moe_intermediate_size": 128, "mlp_only_layers": (1,)},
}


def written(folder: Path, shape: str, *, shard: int = 10**9, dtype: torch.dtype = torch.float32) -> Path:
    config = replace(peers.tiny(**SHAPES[shape]), torch_dtype=str(dtype).removeprefix("torch."))
    save_model(peers.build(config).to(dtype), folder, config=config, max_shard_bytes=shard)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "generation_config.json").write_text('{"do_sample": false}')
    (folder / "training.log").write_text("not the model's")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head", ["int8", None])
@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_folder_is_what_rounding_the_loaded_model_gives(
    shape: str, scheme: str, head: str | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    source = written(tmp_path / "plain", shape, shard=10**5, dtype=dtype)
    seen: list[tuple[int, int]] = []
    config = quantize_folder(
        source, tmp_path / "small", scheme=scheme, head=head, watch=lambda *done: seen.append(done)
    )
    small, rounded = load(tmp_path / "small"), quantize(load(source).model, scheme, head=head)
    assert small.config == replace(config, torch_dtype=small.config.torch_dtype)
    assert small.dtype == dtype
    assert list(small.model.state_dict()) == list(rounded.state_dict())
    for name, value in rounded.state_dict().items():
        assert torch.equal(small.model.state_dict()[name], value), name
    assert seen == [(n, len(seen)) for n in range(1, len(seen) + 1)]


def test_what_lies_beside_the_weights_comes_along_and_nothing_else(tmp_path: Path) -> None:
    quantize_folder(written(tmp_path / "plain", "tied"), tmp_path / "small", scheme="int8")
    assert {path.name for path in (tmp_path / "small").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer_config.json", "generation_config.json",
    }  # fmt: skip


def test_each_matrix_begins_where_vectors_can_read_it(tmp_path: Path) -> None:
    quantize_folder(written(tmp_path / "plain", "untied"), tmp_path / "small", scheme="int4-g32")
    for name, value in load(tmp_path / "small").model.state_dict().items():
        if name.endswith(("weight_packed", "weight")):
            assert value.data_ptr() % 64 == 0, name


def test_a_large_model_is_written_in_parts_with_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "write_checkpoint", partial(convert.write_checkpoint, max_shard_bytes=10**5))
    quantize_folder(written(tmp_path / "plain", "untied"), tmp_path / "small", scheme="int8")
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert "model.layers.0.mlp.up_proj.weight_scale" in index["weight_map"]
    assert load(tmp_path / "small").config.quantization_config is not None


def test_float16_weights_become_bfloat16_scales(tmp_path: Path) -> None:
    source = written(tmp_path / "plain", "untied")
    path = source / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    quantize_folder(source, tmp_path / "small", scheme="int8")
    stored = load_file(tmp_path / "small" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.int8, torch.bfloat16}


def test_what_can_t_be_written_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    source = written(tmp_path / "plain", "untied")
    with pytest.raises(ValueError, match="is where the model lies"):
        quantize_folder(source, source, scheme="int8")
    quantize_folder(source, tmp_path / "small", scheme="int8")
    with pytest.raises(WeightError, match="quantised already"):
        quantize_folder(tmp_path / "small", tmp_path / "smaller", scheme="int4-g32")
    narrow = replace(peers.tiny(hidden_size=96), torch_dtype="float32")
    Qwen(peers.build(narrow)).save(tmp_path / "narrow")
    with pytest.raises(ValueError, match="can't be cut into groups of 128"):
        quantize_folder(tmp_path / "narrow", tmp_path / "small", scheme="int4-g128")
    assert load(tmp_path / "small").config.hidden_size == 128  # what was there is there
    path = source / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightError, match=r"missing: model\.norm\.weight"):
        quantize_folder(source, tmp_path / "other", scheme="int8")
    assert not (tmp_path / "other").exists()


def test_a_link_in_the_new_folder_is_replaced_and_what_it_points_at_stays(tmp_path: Path) -> None:
    source, out = written(tmp_path / "plain", "untied"), tmp_path / "small"
    out.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("somebody's")
    (out / "tokenizer_config.json").symlink_to(victim)
    quantize_folder(source, out, scheme="int8")
    assert victim.read_text() == "somebody's"
    assert (out / "tokenizer_config.json").read_text() == "{}"
