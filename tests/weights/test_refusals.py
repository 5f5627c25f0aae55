"""Broken, hostile and foreign files: each is one clear error that names the file and the tensor."""

import json
import logging
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pureqwen.config import ModelConfig, UnsupportedModel
from pureqwen.weights import WeightError, load_model, quantised_structure, save_model
from pureqwen.weights.files import open_folder
from pureqwen.weights.load import choose_dtype

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"


def config_of(variant: str = "dense tied") -> ModelConfig:
    return peers.tiny(**peers.VARIANTS[variant], num_hidden_layers=2)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_model(peers.build(config_of()), tmp_path, config=config_of())
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_model(peers.build(config_of()), tmp_path, config=config_of(), max_shard_bytes=100_000)
    return tmp_path


def load(folder: Path, **choices: Any) -> torch.nn.Module:
    return load_model(folder, ModelConfig.from_pretrained(folder), **choices)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object], file: str = FILE) -> None:
    tensors = load_file(folder / file)
    edit(tensors)
    save_file(tensors, folder / file)


def reindex(folder: Path, edit: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


# --- tensors that are not the model's (PITFALLS 32)


def test_a_tensor_that_matches_nothing_is_not_ignored_in_silence(single: Path) -> None:
    change(single, lambda t: t.update({"model.layers.0.self_attn.extra.weight": torch.zeros(2)}))
    with pytest.raises(
        WeightError, match=r"1 tensors do not belong to the model: model\.layers\.0\.self_attn\.extra"
    ):
        load(single)


def test_a_layer_too_many_is_named_and_the_list_stays_short(single: Path) -> None:
    config = replace(config_of(), num_hidden_layers=1)
    with pytest.raises(WeightError, match=r"11 tensors do not belong .* and 1 more$"):
        load_model(single, config)


def test_a_missing_tensor_is_named(single: Path) -> None:
    change(single, lambda t: t.pop("model.norm.weight"))
    with pytest.raises(WeightError, match=r"1 of the model's tensors are missing: model\.norm\.weight$"):
        load(single)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(single: Path) -> None:
    change(single, lambda t: t.update({EMBEDDING: t[EMBEDDING][:200].clone()}))
    with pytest.raises(WeightError, match=r"embed_tokens\.weight is \(200, 64\), by the config \(256, 64\)$"):
        load(single)


def test_an_expert_of_another_shape_is_not_broadcast(tmp_path: Path) -> None:
    config = config_of("moe")
    save_model(peers.build(config), tmp_path, config=config)
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    change(tmp_path, lambda t: t.update({name: t[name][:1].clone()}))
    with pytest.raises(
        WeightError, match=r"experts\.5\.up_proj\.weight is \(1, 64\), by the config \(32, 64\)"
    ):
        load(tmp_path)
    change(tmp_path, lambda t: t.pop(name))
    with pytest.raises(WeightError, match=r"missing: model\.layers\.1\.mlp\.experts\.5\.up_proj\.weight$"):
        load(tmp_path)


def test_an_untied_model_without_a_head_is_refused(single: Path) -> None:
    with pytest.raises(WeightError, match=r"missing: lm_head\.weight"):
        load_model(single, replace(config_of(), tie_word_embeddings=False))


def test_a_tied_head_that_differs_from_the_embedding_is_refused(single: Path) -> None:
    change(single, lambda t: t.update({"lm_head.weight": t[EMBEDDING] + 1}))
    with pytest.raises(
        WeightError, match=r"ties lm_head\.weight to model\.embed_tokens\.weight, but they differ"
    ):
        load(single)
    change(single, lambda t: t.update({"lm_head.weight": t[EMBEDDING][:9].clone()}))
    with pytest.raises(
        WeightError, match=r"lm_head\.weight is \(9, 64\), the embedding it is tied to \(256, 64\)"
    ):
        load(single)


def test_a_tensor_under_both_of_its_names_is_refused(single: Path) -> None:
    change(single, lambda t: t.update({"embed_tokens.weight": t[EMBEDDING].clone()}))
    with pytest.raises(WeightError, match="stored twice, under different names"):
        load(single)


# --- files that are broken


def test_a_truncated_file_is_named_with_its_sizes(single: Path) -> None:
    raw = (single / FILE).read_bytes()
    (single / FILE).write_bytes(raw[:-1000])
    with pytest.raises(
        WeightError, match=rf"truncated: it has {len(raw) - 1000:,} bytes, its header needs {len(raw):,}"
    ):
        load(single)


@pytest.mark.parametrize("size", [0, 7, 8, 100])
def test_a_file_that_ends_in_its_header_is_refused(single: Path, size: int) -> None:
    (single / FILE).write_bytes((single / FILE).read_bytes()[:size])
    with pytest.raises(WeightError, match=rf"not a whole safetensors file: it has {size} bytes"):
        load(single)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**9, 100_000_001])
def test_a_header_of_absurd_size_is_refused_without_reading_it(single: Path, length: int) -> None:
    with open(single / FILE, "r+b") as file:
        file.write(struct.pack("<Q", length))
        file.truncate(300_000_000)  # sparse
    with pytest.raises(WeightError, match=f"its header would have {length:,}"):
        load(single)


def lie(folder: Path, text: str, *, data: int = 8) -> None:
    raw = text.encode()
    (folder / FILE).write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * data)


@pytest.mark.parametrize(
    "header",
    [
        "not json",
        "[1, 2]",
        "[" * 100_000,
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
        '{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
        ' "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},'
        ' "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    ],
)
def test_a_header_that_lies_is_refused(single: Path, header: str) -> None:
    lie(single, header)
    with pytest.raises(WeightError, match=FILE):
        load(single)


@settings(max_examples=150, deadline=None)
@given(where=st.integers(0, 400), byte=st.integers(0, 255))
def test_any_damaged_byte_of_a_header_loads_or_is_a_weight_error(
    where: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    tensors = {"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)}
    save_file(tensors, folder / FILE)
    raw = bytearray((folder / FILE).read_bytes())
    raw[where % len(raw)] = byte
    (folder / FILE).write_bytes(raw)
    try:
        checkpoint = open_folder(folder)
    except WeightError:
        return
    for name in checkpoint:
        assert checkpoint.read(name).numel() < 100


def test_a_misaligned_tensor_is_read_right(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(0, 4)}, tmp_path / FILE)
    numbers = struct.pack("<4f", 1, 2, 3, 4)
    header = (
        b'{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},'
        b'"b":{"dtype":"F32","shape":[2,2],"data_offsets":[3,19]}}'
    )
    header += b" " * (-len(header) % 8)
    (tmp_path / FILE).write_bytes(struct.pack("<Q", len(header)) + header + b"\1\2\3" + numbers)
    checkpoint = open_folder(tmp_path)
    assert checkpoint.read("b").tolist() == [[1, 2], [3, 4]]
    assert checkpoint.read("b").data_ptr() % 4 == 0
    assert checkpoint.read("b", slice(1, 2)).tolist() == [[3, 4]]
    checkpoint.release("b")
    assert checkpoint.read("b", slice(0, 1)).tolist() == [[1, 2]]


def test_a_tensor_without_elements_is_read(tmp_path: Path) -> None:
    save_file({"empty": torch.zeros(0, 4), "a": torch.ones(2)}, tmp_path / FILE)
    checkpoint = open_folder(tmp_path)
    assert checkpoint.read("empty").shape == (0, 4)
    checkpoint.release("empty")


# --- shards and their index


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*"))[1]
    shard.unlink()
    with pytest.raises(WeightError, match=f"these are missing: {shard.name}$"):
        load(sharded)
    (sharded / INDEX).unlink()
    with pytest.raises(WeightError, match=f"these are missing: {shard.name}$"):
        load(sharded)


def test_shards_without_an_index_are_read(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    load(sharded)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "C:x.safetensors",
     "pytorch_model.bin", "", "..", 7, None, ["x.safetensors"], "a\0.safetensors"],
)  # fmt: skip
def test_an_index_that_points_outside_the_folder_is_refused(sharded: Path, name: Any) -> None:
    reindex(sharded, lambda weight_map: weight_map.update({EMBEDDING: name}))
    (sharded.parent / "x.safetensors").write_bytes(b"")
    with pytest.raises(WeightError, match=r"only the plain name of a \*\.safetensors file"):
        load(sharded)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 99_999]
)
def test_an_index_that_is_none_is_refused(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    with pytest.raises(WeightError, match="index"):
        load(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    last = sorted(sharded.glob("model-*"))[-1].name
    change(sharded, lambda t: t.update({EMBEDDING: torch.zeros(256, 64)}), last)
    with pytest.raises(WeightError, match=rf"tensor {EMBEDDING} is in two files: .*00001-of.* and .*{last}"):
        load(sharded)


def test_an_index_that_names_what_its_shard_lacks_is_refused(sharded: Path) -> None:
    reindex(sharded, lambda weight_map: weight_map.update({"model.ghost": weight_map[EMBEDDING]}))
    with pytest.raises(WeightError, match=r"do not hold: model\.ghost \(model-00001"):
        load(sharded)


# --- no weights, or weights of another kind


def test_no_such_folder_and_no_config(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="no such folder"):
        load_model(tmp_path / "nowhere", config_of())
    with pytest.raises(ValueError, match=r"no config\.json"):
        load(tmp_path)


def test_pickle_is_never_loaded_and_the_error_says_what_to_do(single: Path) -> None:
    (single / FILE).unlink()
    (single / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(
        WeightError, match=r"only as pickle \(pytorch_model\.bin\), .* never loads.*save_pretrained"
    ):
        load(single)
    assert not Path("owned").exists()


def test_gguf_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="it is empty"):
        load_model(tmp_path, config_of())
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(WeightError, match=r"it holds notes\.txt"):
        load_model(tmp_path, config_of())
    (tmp_path / "Qwen3-0.6B-Q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightError, match="holds GGUF"):
        load_model(tmp_path, config_of())


@pytest.mark.parametrize(
    ("folder", "method", "sibling"),
    [
        ("Qwen/Qwen3-32B-FP8", "fp8", "Qwen/Qwen3-32B has"),
        ("Qwen/Qwen3-4B-AWQ", "awq", "Qwen/Qwen3-4B has"),
        ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", "gptq", "Qwen/Qwen3-30B-A3B has"),
        ("hub/models--Qwen--Qwen3-4B-AWQ/snapshots/1cfa9a72", "awq", "Qwen/Qwen3-4B has"),
        ("checkpoint", "fp8", "the model it was made from has"),
    ],
)
def test_a_quantised_checkpoint_names_its_unquantised_sibling(folder: str, method: str, sibling: str) -> None:
    config = replace(config_of(), quantization_config={"quant_method": method})
    with pytest.raises(
        WeightError, match=f"quantised with {method}, a format that is not read yet: {sibling}"
    ):
        quantised_structure(config, folder)
    with pytest.raises(WeightError, match=f"quantised with {method}"):
        load_model(folder, config)


def test_a_quantised_checkpoint_whose_config_keeps_silent_is_refused(single: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change(single, lambda t: t.update({name: t[name].to(torch.float8_e4m3fn)}))
    with pytest.raises(WeightError, match=r"quantised \(model\.layers\.0\.mlp\.up_proj\.weight\)"):
        load(single)


def test_another_architecture_is_refused_by_name(single: Path) -> None:
    content = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps({**content, "model_type": "llama"}))
    with pytest.raises(UnsupportedModel, match="llama"):
        load(single)


# --- dtypes (PITFALLS 9)


def declare(folder: Path, dtype: str | None) -> None:
    """Write what config.json says of the dtype; None: nothing."""
    content = json.loads((folder / "config.json").read_text())
    del content["torch_dtype"]
    (folder / "config.json").write_text(
        json.dumps(content if dtype is None else {**content, "torch_dtype": dtype})
    )


def test_float16_files_become_bfloat16_on_a_cpu_with_a_notice(
    single: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(single, lambda t: t.update({n: x.half() for n, x in t.items()}))
    declare(single, "float16")
    with caplog.at_level(logging.WARNING):
        model = load(single)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert "converted to bfloat16" in caplog.text


@pytest.mark.parametrize("dtype", ["float16", torch.float16])
def test_asking_for_float16_on_a_cpu_is_refused(single: Path, dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"float16 is a hundred times slower .* use bfloat16 or float32"):
        load(single, dtype=dtype)


@pytest.mark.parametrize("dtype", ["int8", "bf16", "", None, 16, torch.int8, torch.float8_e4m3fn])
def test_an_unknown_dtype_names_those_that_are_known(single: Path, dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"bfloat16.*float32"):
        load(single, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, "auto"])
def test_float16_elsewhere_is_warned_about(
    single: Path, caplog: pytest.LogCaptureFixture, dtype: Any
) -> None:
    change(single, lambda t: t.update({n: x.half() for n, x in t.items()}))
    entries = open_folder(single).entries
    assert choose_dtype(dtype, entries, declared=None, device=torch.device("cuda")) == torch.float16
    assert "float16 overflows" in caplog.text


def test_auto_takes_the_dtype_of_most_of_the_file(single: Path) -> None:
    narrow = {"model.norm.weight"}
    change(single, lambda t: t.update({n: x if n in narrow else x.bfloat16() for n, x in t.items()}))
    declare(single, None)
    assert {p.dtype for p in load(single).parameters()} == {torch.bfloat16}


def test_auto_takes_the_dtype_that_the_config_declares_as_transformers_does(single: Path) -> None:
    change(single, lambda t: t.update({n: x.bfloat16() for n, x in t.items()}))
    declare(single, "float32")
    assert {p.dtype for p in load(single).parameters()} == {torch.float32}
