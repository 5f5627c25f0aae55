"""A checkpoint -> the same in fewer bits, one tensor at a time.

    for each tensor of the new files:   map the old one -> round it (rewrite/quantize.py) -> write -> drop

So the largest matrix decides how much memory it takes, not the model. The new model's names, shapes and
config are those of the same rewrite on the meta device. What is not quantised keeps its numbers, in the
embedding's dtype (bfloat16 for float16). Tokenizer, template and generation_config.json are copied.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pureqwen.config import ModelConfig
from pureqwen.config.quantization import Scheme, scheme_of
from pureqwen.model import Qwen3
from pureqwen.rewrite.quantize import BLOCK, kind_of, quantize
from pureqwen.weights.files import Checkpoint, WeightError, open_folder
from pureqwen.weights.load import NoDraws, refuse_mismatch, refuse_other_head, refuse_unfit
from pureqwen.weights.names import EMBEDDING, HEAD, canonical, is_bare, stored_tensors
from pureqwen.weights.save import write_checkpoint

BESIDE = re.compile(
    r"tokenizer.*|vocab\.json|merges\.txt|added_tokens\.json|special_tokens_map\.json"
    r"|chat_template\.(jinja|json)|generation_config\.json"
)


def quantize_folder(
    source: str | Path,
    out: str | Path,
    *,
    scheme: str | Scheme,
    head: str | Scheme | None = "int8",
    watch: Callable[[int, int], None] | None = None,
) -> ModelConfig:
    """Writes the weights of `source` in fewer bits, with config.json, into `out`; returns the new config.

    scheme, head: as in `pureqwen.rewrite.quantize`. watch: called with how many tensors are done, of all.
    Raises WeightError for files that are broken or quantised already, and ValueError where `out` is `source`
    or the scheme does not fit.
    """
    source, out = Path(source), Path(out)
    if out.resolve() == source.resolve() or (out.exists() and out.samefile(source)):
        raise ValueError(f"{out} is where the model lies: give another folder")
    body, top = scheme_of(scheme), None if head is None else scheme_of(head)
    config = ModelConfig.from_pretrained(source)
    if config.quantization_config is not None:
        raise WeightError(f"{source} is quantised already: begin with the model it was made from")
    files = open_folder(source)
    if is_bare(files.entries) and HEAD not in files:
        raise WeightError(f"{source} has no lm_head (an embedding model): only language models are quantised")
    checkpoint = Checkpoint(source, canonical(files.entries))
    refuse_unfit(checkpoint, config)
    with torch.device("meta"), NoDraws():
        model = Qwen3(config)
        refuse_mismatch(checkpoint, stored_tensors(model), tied=config.tie_word_embeddings)
        quantize(model.to(_dtype(checkpoint)), body, head=top)
    if config.tie_word_embeddings and HEAD in checkpoint:
        refuse_other_head(checkpoint)
    tensors, done = stored_tensors(model), 0

    def make(name: str) -> Tensor:
        nonlocal done
        made = _made(name, tensors[name], checkpoint, top if name.startswith("lm_head.") else body)
        done += 1
        if watch is not None:
            watch(done, len(tensors))
        return made

    write_checkpoint(tensors, out, config=model.config, make=make)
    for path in source.iterdir():
        if path.is_file() and BESIDE.fullmatch(path.name):
            (out / path.name).unlink(missing_ok=True)  # it may be a link to somebody's file
            shutil.copyfile(path, out / path.name)
    return model.config


def _dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Of the floats that stay; float16 would overflow and is never computed in."""
    stored = checkpoint.entries[EMBEDDING].dtype
    return torch.bfloat16 if stored == torch.float16 else stored


@torch.no_grad()
def _made(name: str, like: Tensor, checkpoint: Checkpoint, scheme: Scheme | None) -> Tensor:
    """One tensor of the new files."""
    path, _, leaf = name.rpartition(".")
    source = f"{path}.weight"
    if like.is_floating_point() and leaf == "weight":  # not quantised: a norm, a router, the embedding
        return checkpoint.read(name).to(like.dtype)
    assert scheme is not None, name
    if source == HEAD and source not in checkpoint:  # a tied head, which becomes a matrix of its own
        source = EMBEDDING
    num_rows, width = checkpoint.entries[source].shape
    if leaf == "weight_shape":
        return torch.tensor([num_rows, width])
    dtype = _dtype(checkpoint)
    parts, step = [], max(1, BLOCK // width)
    for start in range(0, num_rows, step):
        rows = slice(start, min(start + step, num_rows))
        parts.append(kind_of(scheme).made(checkpoint.read(source, rows).to(dtype), scheme.group)[leaf])
        checkpoint.release(source, rows)
    return torch.cat(parts)
