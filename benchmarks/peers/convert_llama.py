"""A checkpoint as GGUF, and one GGUF file in fewer bits. Runs in the peers' environment.

    python -m benchmarks.peers.convert_llama CHECKPOINT OUT.gguf
    python -m benchmarks.peers.convert_llama BF16.gguf --to Q4_0 OUT.gguf      llama.cpp's own quantiser

Matrices stay as they are, bfloat16; norms and routers become float32, as the format wants them. The
vocabulary is a filler: nothing here is text.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

EXPERT = re.compile(r"(model\.layers\.\d+\.mlp\.experts)\.(\d+)\.(\w+)\.weight")


def write(source: Path, out: Path) -> None:
    import gguf

    config = json.loads((source / "config.json").read_text())
    moe = config["model_type"] == "qwen3_moe"
    arch = gguf.MODEL_ARCH.QWEN3MOE if moe else gguf.MODEL_ARCH.QWEN3
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[arch])
    describe(writer, config, moe)
    files = Files(source)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    sources = files.groups()
    for name, parts in sources.items():
        target = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor_info(target, *files.info(parts))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for parts in sources.values():
        writer.write_tensor_data(files.data(parts))
    writer.close()


def describe(writer: Any, config: dict[str, Any], moe: bool) -> None:
    writer.add_name("random")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(32)  # mostly bfloat16
    if moe:
        writer.add_expert_count(config.get("num_experts") or config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    last = config["vocab_size"] - 1
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{n}" for n in range(last + 1)])
    writer.add_token_types([1] * (last + 1))
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(last)
    writer.add_bos_token_id(last)
    writer.add_add_bos_token(False)


class Files:
    """A checkpoint's tensors; the experts of a layer together, in their order."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
        self.files = {name: file for file in files for name in list(file.keys())}

    def groups(self) -> dict[str, list[str]]:
        """The name of what GGUF stores, and the tensors that it is made of."""
        found: dict[str, dict[int, str]] = {}
        for name in self.files:
            expert = EXPERT.fullmatch(name)
            whole, number = (f"{expert[1]}.{expert[3]}.weight", int(expert[2])) if expert else (name, 0)
            found.setdefault(whole, {})[number] = name
        return {whole: [parts[n] for n in range(len(parts))] for whole, parts in found.items()}

    def data(self, parts: list[str]) -> Any:
        import torch

        tensors = [self.files[name].get_tensor(name) for name in parts]
        if wide(parts[0]):
            return tensors[0].float().numpy()
        return torch.stack(tensors).squeeze(0).view(torch.uint8).numpy()

    def info(self, parts: list[str]) -> tuple[Any, ...]:
        """Shape (in bytes, where it is bfloat16), dtype, size and GGUF's type."""
        import gguf
        import numpy

        shape = list(self.files[parts[0]].get_slice(parts[0]).get_shape())
        shape = [len(parts), *shape] if len(parts) > 1 else shape
        if wide(parts[0]):
            return shape, numpy.dtype("float32"), 4 * int(numpy.prod(shape)), None
        shape[-1] *= 2
        return shape, numpy.dtype("uint8"), int(numpy.prod(shape)), gguf.GGMLQuantizationType.BF16


def wide(name: str) -> bool:
    """What GGUF keeps in float32: norms and routers."""
    return "norm" in name or name.endswith(".mlp.gate.weight")


def quantize(source: Path, out: Path, kind: str) -> None:
    import llama_cpp

    kinds = {name: getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}") for name in ("Q8_0", "Q4_0", "Q4_K_M")}
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = kinds[kind], 2
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), settings)
    if code:
        raise RuntimeError(f"llama_model_quantize returned {code}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--to")
    given = parser.parse_args()
    quantize(given.source, given.out, given.to) if given.to else write(given.source, given.out)
