"""What is saved is read again, by us bit for bit and by transformers to the same logits."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pureqwen.config import ModelConfig
from pureqwen.model import Qwen3
from pureqwen.weights import load_model, save_model, write_json
from pureqwen.weights.files import open_folder
from pureqwen.weights.save import HUGE, MOST, HugePages

IDS = torch.arange(24).view(2, 12) * 7 % 256
ROUND = ["dense tied", "dense untied", "moe", "mixed by mlp_only_layers"]


def save(folder: Path, variant: str = "dense tied", *, shard: int = 10**9) -> Qwen3:
    config = peers.tiny(**peers.VARIANTS[variant])
    model = peers.build(config)
    save_model(model, folder, config=config, max_shard_bytes=shard)
    return model


def load(folder: Path, dtype: str = "auto") -> Qwen3:
    return load_model(folder, ModelConfig.from_pretrained(folder), dtype=dtype)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(n == m and torch.equal(x, y) for (n, x), (m, y) in pairs)


@pytest.mark.parametrize("shard", [10**9, 100_000])
@pytest.mark.parametrize("variant", ROUND)
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, variant: str, shard: int) -> None:
    model = save(tmp_path, variant, shard=shard)
    again = load(tmp_path)
    assert same(model, again)
    assert not again.training and all(p.requires_grad for p in again.parameters())
    assert (tmp_path / "model.safetensors").exists() == (shard == 10**9)


@pytest.mark.parametrize("variant", ROUND)
def test_transformers_computes_the_same_from_what_we_save(tmp_path: Path, variant: str) -> None:
    from transformers import AutoModelForCausalLM

    model = save(tmp_path, variant, shard=200_000)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits, expected = model(IDS), theirs(IDS).logits
    assert expected.dtype == torch.float32
    assert (logits - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("variant", ROUND)
def test_we_read_what_transformers_saves(tmp_path: Path, variant: str) -> None:
    ours, theirs = peers.twins(peers.tiny(**peers.VARIANTS[variant]))
    theirs.save_pretrained(tmp_path, max_shard_size="150KB")
    assert same(ours, load(tmp_path))


def test_stacked_experts_of_a_file_are_read_whichever_way_they_are_stacked(tmp_path: Path) -> None:
    model = save(tmp_path, "moe")
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(4):
        path = f"model.layers.{layer}.mlp.experts"
        parts = {
            part: torch.stack([tensors.pop(f"{path}.{e}.{part}.weight") for e in range(8)])
            for part in ("gate_proj", "up_proj", "down_proj")
        }
        tensors[f"{path}.gate_up_proj"] = torch.cat((parts["gate_proj"], parts["up_proj"]), dim=1)
        tensors[f"{path}.down_proj"] = parts["down_proj"].contiguous()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert same(model, load(tmp_path))


def test_embedding_checkpoints_without_the_model_prefix_are_read(tmp_path: Path) -> None:
    model = save(tmp_path, "dense tied")
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({n.removeprefix("model."): t for n, t in tensors.items()}, tmp_path / "model.safetensors")
    assert same(model, load(tmp_path))


def test_an_untied_embedding_checkpoint_has_no_head_and_says_so(tmp_path: Path) -> None:
    model = save(tmp_path, "dense untied")  # as Qwen3-Embedding-8B
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file({n.removeprefix("model."): t for n, t in tensors.items()}, tmp_path / "model.safetensors")
    again = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.hidden(IDS), model.hidden(IDS))
        with pytest.raises(ValueError, match="no lm_head"):
            again(IDS)


def test_a_model_without_a_head_is_saved_as_one(tmp_path: Path) -> None:
    from transformers import AutoModel

    model = save(tmp_path, "dense untied")
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file({n.removeprefix("model."): t for n, t in tensors.items()}, tmp_path / "model.safetensors")
    save_model(load(tmp_path), tmp_path / "again", config=model.config)
    assert same(load(tmp_path), load(tmp_path / "again"))
    theirs, report = AutoModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        expected = model.hidden(IDS)
        difference = (theirs(input_ids=IDS).last_hidden_state - expected).abs().max()
    assert difference <= 2e-5 * expected.abs().max()


def test_a_tied_head_that_is_stored_too_is_held_once_and_not_written_back(tmp_path: Path) -> None:
    model = save(tmp_path, "dense tied")  # as Qwen3-0.6B: 596M parameters, 752M in the file
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, tmp_path / "model.safetensors")
    again = load(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert sum(p.numel() for p in again.parameters()) == again.config.num_parameters()
    assert same(model, again)
    save_model(again, tmp_path, config=again.config)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118  # not a mapping


@pytest.mark.parametrize("variant", ["dense tied", "dense untied", "moe"])
def test_converting_rounds_each_number_once(tmp_path: Path, variant: str) -> None:
    model = save(tmp_path, variant).to(torch.bfloat16)
    assert same(model, load(tmp_path, "bfloat16"))
    save_model(model, tmp_path, config=model.config)
    assert same(model.to(torch.float32), load(tmp_path, "float32"))


def test_blocks_of_rows_meet_without_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(tmp_path, "moe")
    monkeypatch.setattr("pureqwen.weights.load.BLOCK", 3 * 64 * 4)  # three rows of 64, and 256 is no multiple
    assert same(model.to(torch.bfloat16), load(tmp_path, "bfloat16"))


def test_a_parameter_in_the_files_dtype_is_a_view_and_writing_to_it_leaves_the_file_alone(
    tmp_path: Path,
) -> None:
    save(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = load(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not same(model, load(tmp_path))


def test_saving_over_the_folder_that_is_mapped(tmp_path: Path) -> None:
    model = save(tmp_path)
    mapped = load(tmp_path)
    with torch.no_grad():
        mapped.model.norm.weight.zero_()
    save_model(mapped, tmp_path, config=mapped.config)
    again = load(tmp_path)
    assert same(mapped, again) and not same(model, again)


def test_an_older_save_leaves_no_shards_behind(tmp_path: Path) -> None:
    save(tmp_path, shard=50_000)
    assert len(list(tmp_path.glob("model-*"))) > 3
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / ".model-00007-of-00009.safetensors.tmp").write_bytes(b"left by a process that was killed")
    save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors", "tokenizer.json"]
    save(tmp_path, shard=50_000)  # transformers would prefer a stale model.safetensors to the index
    assert not (tmp_path / "model.safetensors").exists()


def test_a_save_that_fails_halfway_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, shard=100_000)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    written = []

    def full(pages: object, data: memoryview) -> None:
        written.append(data)
        if len(written) > 20:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(HugePages, "write", full)
    with pytest.raises(
        OSError, match=r"can't save into .*: No space left on device; the files that were there"
    ):
        save(tmp_path, shard=100_000)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Noted(io.BytesIO):
    """A file that remembers the sizes of what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def write(self, data: Any) -> int:
        self.sizes.append(len(data))
        return super().write(data)


@pytest.mark.parametrize(
    "sizes", [[], [1], [9, 3 * HUGE], [HUGE - 1, 1, HUGE, 5], [70 << 20, 3], [5, 5 * HUGE - 5]]
)
def test_all_but_the_end_is_written_in_whole_huge_pages(sizes: list[int]) -> None:
    file, parts = Noted(), [bytes([n + 1]) * size for n, size in enumerate(sizes)]
    pages = HugePages(file)
    for part in parts:
        pages.write(memoryview(part))
    pages.finish()
    assert file.getvalue() == b"".join(parts)
    assert all(size % HUGE == 0 and size <= MOST for size in file.sizes[:-1])


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="out: a file of that name is in the way"):
        save(tmp_path / "out")
    with pytest.raises(ValueError, match="max_shard_bytes is 0"):
        save(tmp_path, shard=0)


@pytest.mark.parametrize("shard", [10**9, 100_000])
def test_tensors_are_aligned_to_64_bytes(tmp_path: Path, shard: int) -> None:
    save(
        tmp_path, "gqa ratio 8", shard=shard
    )  # its q_norm and k_norm have 32 bytes and would push the rest away
    for path in tmp_path.glob("*.safetensors"):
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        assert (8 + length) % 64 == 0
        header = json.loads(raw[8 : 8 + length])
        assert header.pop("__metadata__") == {"format": "pt"}
        for name, info in header.items():
            start, stop = info["data_offsets"]
            divisor = min(64, (stop - start) & -(stop - start))
            assert start % divisor == 0, (path.name, name)


def test_shards_keep_to_their_size_and_the_index_counts_the_bytes(tmp_path: Path) -> None:
    model = save(tmp_path, "dense untied", shard=100_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    assert set(index["weight_map"].values()) == {p.name for p in tmp_path.glob("model-*")}
    for path in tmp_path.glob("model-*"):
        assert path.stat().st_size <= 100_000 + 10_000  # the header


def test_the_config_names_the_dtype_that_was_saved(tmp_path: Path) -> None:
    model = save(tmp_path).to(torch.bfloat16)
    save_model(model, tmp_path, config=model.config)
    assert model.config.torch_dtype == "float32"
    assert ModelConfig.from_pretrained(tmp_path).torch_dtype == "bfloat16"


def test_saving_leaves_the_parameters_that_an_optimizer_holds(tmp_path: Path) -> None:
    model = peers.build(peers.tiny(**peers.MOE))
    held = list(model.parameters())
    save_model(model, tmp_path, config=model.config)
    assert all(a is b for a, b in zip(held, model.parameters(), strict=True))


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "generation_config.json", {"temperature": 0.6})
    with pytest.raises(TypeError):
        write_json(tmp_path / "generation_config.json", {"temperature": object()})
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"temperature": 0.6}
    assert os.listdir(tmp_path) == ["generation_config.json"]


def test_building_a_model_without_memory_draws_no_numbers(tmp_path: Path) -> None:
    """Drawing them on the meta device made torch import 800 modules: two seconds of each start."""
    save(tmp_path)
    program = (
        "import sys, pureqwen.weights, pureqwen.config as c\n"
        "before = set(sys.modules)\n"
        f"pureqwen.weights.load_model({str(tmp_path)!r}, c.ModelConfig.from_pretrained({str(tmp_path)!r}))\n"
        "print(len(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 50


@pytest.mark.parametrize("size", [1, 100, 10**6])
def test_a_head_that_differs_in_its_last_bit_is_not_the_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("pureqwen.weights.files.COMPARED", size)
    a = torch.arange(37, dtype=torch.int16)
    b = a.clone()
    b[-1] += 1
    save_file({"a": a, "b": b, "c": a.clone(), "d": a.view(1, 37).clone()}, tmp_path / "model.safetensors")
    checkpoint = open_folder(tmp_path)
    assert checkpoint.same_bytes("a", "c")
    assert not checkpoint.same_bytes("a", "b")
    assert not checkpoint.same_bytes("a", "d")
