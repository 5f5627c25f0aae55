"""The models that are measured: random weights, ours in every scheme, and the peers' own formats.

    FOLDER/dense/bf16   int8   int4-g64     safetensors: pureqwen, and transformers the first; the head is of
                                            8 bits unless the name says -head
                 BF16.gguf   Q8_0.gguf ...  llama.cpp
                 openvino-int8   openvino-int4
    FOLDER/moe/ ...                         the same, without OpenVINO
    FOLDER/start/int8                       dense/int8 with a tokenizer beside it: for the start of a process

Each is made once, under another name until it is whole. A format that can't be made is a reason and no
error: its programs are left out.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pureqwen.config import ModelConfig
from pureqwen.model import Qwen3
from pureqwen.weights.convert import quantize_folder
from pureqwen.weights.names import stored_tensors
from pureqwen.weights.save import write_checkpoint

ROOT = Path(__file__).parents[2]
SCHEMES = {
    "int8": ("int8", "int8"),
    "int4-g64": ("int4-g64", "int8"),
}  # folder: of the blocks, and of the head
SMALL_HEAD = {"int4-g64-head": ("int4-g64", "int4-g64")}  # of the dense one
GGUF = {"dense": ("Q8_0", "Q4_0", "Q4_K_M"), "moe": ("Q8_0", "Q4_0")}
OPENVINO = ("int8", "int4")
MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}

TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}


def shape(kind: str) -> ModelConfig:
    """dense: that of Qwen3-0.6B. moe: 3.2 billion parameters, a token meets 8 of a layer's 64 experts. tiny:
    to see that everything works.
    """
    config = replace(ModelConfig.preset("Qwen3-0.6B"), torch_dtype="bfloat16")
    return replace(config, **{"dense": {}, "moe": MOE, "tiny": TINY}[kind])


def prepare(folder: Path, kind: str, python: Path) -> dict[str, str]:
    """Make all formats of a kind that are not there, with the peers' `python`. Returns why some are not."""
    missing: dict[str, str] = {}
    place = folder / kind
    plain = place / "bf16"
    made(plain, lambda out: write_random(out, shape(kind)))
    for name, (scheme, head) in (SCHEMES | (SMALL_HEAD if kind == "dense" else {})).items():
        made(place / name, lambda out, s=scheme, h=head: quantize_folder(plain, out, scheme=s, head=h))
    wanted = [("BF16.gguf", "convert_llama", [str(plain)])]
    wanted += [
        (f"{name}.gguf", "convert_llama", [str(place / "BF16.gguf"), "--to", name]) for name in GGUF[kind]
    ]
    if kind == "dense":
        made(folder / "start" / "int8", lambda out: with_tokenizer(place / "int8", out))
        wanted += [(f"openvino-{name}", "convert_openvino", [str(plain), "--to", name]) for name in OPENVINO]
    for name, module, arguments in wanted:
        try:
            made(place / name, lambda out, m=module, a=arguments: convert(python, m, [*a, str(out)]))
        except (OSError, RuntimeError) as error:
            missing[name] = str(error)
    return missing


def made(path: Path, make: Callable[[Path], Any]) -> None:
    """Make a file or folder, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"draft-{path.name}")
    shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
    print(f"making {path.parent.name}/{path.name} ...", file=sys.stderr, flush=True)
    make(draft)
    forget(draft)
    draft.rename(path)


def forget(path: Path) -> None:
    """Let the system drop what it keeps of a file, or of a folder's: the first to load it reads the disk.

    What was just written may lie in memory in small pages, which are read slowly (an AVX-512 machine, 4-bit
    weights: 1.5 times as long a step), by all programs; after a restart, or days, it would not.
    """
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and sys.platform == "linux":
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def convert(python: Path, module: str, arguments: list[str]) -> None:
    """Run a converter in the peers' environment. RuntimeError with its last line where it fails."""
    if not python.exists():
        raise RuntimeError("not installed: make peers")
    command = [str(python), "-m", f"benchmarks.peers.{module}", *arguments]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(f"not converted: {lines[-1] if lines else f'ended with {done.returncode}'}"[:300])


def write_random(folder: Path, config: ModelConfig) -> None:
    """A checkpoint of this shape, one tensor at a time; the norms about 1."""
    with torch.device("meta"):
        tensors = stored_tensors(Qwen3(config).to(torch.bfloat16))
    torch.manual_seed(0)

    def make(name: str) -> torch.Tensor:
        new = torch.empty(tensors[name].shape).normal_(0, 0.1 if "norm" in name else 0.02)
        return (new + 1 if "norm" in name else new).to(torch.bfloat16)

    write_checkpoint(tensors, folder, config=config, make=make)


def with_tokenizer(source: Path, out: Path, *, texts: bool = False, size: int = 151_643) -> None:
    """The same weights, linked, beside a byte-level BPE of `size` tokens: as large as Qwen3's.

    texts: tokens of letters, each of which can be shown by itself; only the 256 bytes are what they are.
    """
    from pureqwen.tokenizer import BYTE_VALUES

    out.mkdir()
    for path in source.iterdir():
        (out / path.name).symlink_to(path.resolve())
    tokens = sorted(BYTE_VALUES)
    letters = [chr(code) for code in range(33, 127)] if texts else list(tokens)
    roots = list(letters)
    merges: list[list[str]] = []
    while len(tokens) < size:  # every token of letters, in order, followed by every letter
        first, second = roots[len(merges) // len(letters)], letters[len(merges) % len(letters)]
        merges.append([first, second])
        tokens.append(first + second)
        roots.append(first + second)
    model = {"type": "BPE", "vocab": {token: n for n, token in enumerate(tokens)}, "merges": merges}
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": split,
        "decoder": split,
        "post_processor": None,
        "model": model,
    }
    (out / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
