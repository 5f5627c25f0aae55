"""`pureqwen info`: what a model is made of, what it costs, and whether it fits here. No weight is read."""

import difflib
import json as json_lines
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pureqwen.cli.options import flag
from pureqwen.cli.terminal import plain_table, show_table, stdout
from pureqwen.config import ModelConfig
from pureqwen.config.presets import PresetInfo, preset_info, preset_names
from pureqwen.explain import Ledger, ledger
from pureqwen.memory import Memory, memories

CONTEXTS = (1_024, 4_096, 16_384, 65_536, 262_144)


def info(
    model: Annotated[str, flag("A preset's name (see pureqwen models), a folder, a hub name, or pocket.")],
    /,
    *,
    dtype: Annotated[str | None, flag("bfloat16 or float32. [default: the model's own]")] = None,
    revision: Annotated[str | None, flag("A branch, tag or commit: ask the hub, not the preset.")] = None,
    json: Annotated[bool, flag("One JSON object instead of tables.", negative="")] = False,
) -> None:
    """Show each block of a model with its parameters, bytes and FLOPs per token, and what fits in memory.

    FLOPs are those of matrix products; a tied head multiplies but holds no numbers of its own. A released
    model's name needs no network; the hub is asked for the config.json of others.
    """
    found = find(model, revision)
    counted = ledger(found.config, dtype=dtype or weights_dtype(found.config))
    if json:
        print(json_lines.dumps(as_plain(model, found, counted, memories()), indent=2))
        return
    show_summary(model, found, counted)
    show_parts(counted)
    show_path()
    show_fit(counted, memories())


@dataclass(frozen=True, kw_only=True)
class Found:
    """A config, and where it comes from."""

    config: ModelConfig
    origin: str
    preset: PresetInfo | None = None


def find(model: str, revision: str | None) -> Found:
    """The folder, the preset or the hub's config.json of this name, the first that there is.

    Raises ValueError where there is none; HubError, one of them, says what the hub has against it.
    """
    preset = None if revision else find_preset(model)
    if preset is not None and not Path(model).is_dir():
        kind = "reconstructed: its official file was not seen" if preset.reconstructed else "official values"
        return Found(config=preset.config, origin=f"preset, {kind}", preset=preset)
    from pureqwen.weights.sources import INSIDE, looks_like_a_path, resolve

    if model in INSIDE or looks_like_a_path(model) or Path(model).exists():
        folder = resolve(model, revision=revision)
        return Found(config=ModelConfig.from_pretrained(folder), origin=str(folder / "config.json"))
    if "/" not in model:
        near = difflib.get_close_matches(model, preset_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else "pureqwen models lists the released ones"
        raise ValueError(f"there is no folder and no preset {model!r}: {hint}")
    config = ModelConfig.from_pretrained(model, revision=revision)
    return Found(config=config, origin=f"config.json on the hub, {revision or 'main'}")


def find_preset(name: str) -> PresetInfo | None:
    try:
        return preset_info(name)
    except ValueError:
        return None


def weights_dtype(config: ModelConfig) -> str:
    """float16 weights are held as bfloat16; both take two bytes."""
    return "float32" if config.torch_dtype == "float32" else "bfloat16"


def show_summary(model: str, found: Found, counted: Ledger) -> None:
    config, screen = found.config, stdout()
    experts = (
        f", {config.num_experts} experts, {config.num_experts_per_tok} chosen" if config.num_experts else ""
    )
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    screen.line(f"{model}  ({found.origin})")
    screen.line(
        f"{config.num_hidden_layers} layers{experts}, hidden size {config.hidden_size:,}, "
        f"{heads} heads on {shared} key/value heads of {config.head_dim}, "
        f"context {config.context_length:,} tokens"
    )
    if found.preset is not None and found.preset.quantization:
        screen.line(
            f"{found.preset.quantization.upper()} weights are not read yet: load {found.preset.unquantized}; "
            "the bytes below are those of unquantised weights"
        )
    screen.line()


def show_parts(counted: Ledger) -> None:
    """One row for each kind of tensor, then the sums."""
    table = plain_table("block", "shape", "times", "parameters", "bytes", "FLOPs/token")
    for part in counted.parts:
        shape = " x ".join(f"{size:,}" for size in part.shape)
        times = f"{part.count:,}" if part.count == part.active else f"{part.active:,} of {part.count:,}"
        numbers = f"{part.parameters:,}" if part.held else "tied"
        flops = f"{part.flops:,}" if part.multiplies else "-"
        table.add_row(part.path, shape, times, numbers, size(part.num_bytes), flops)
    total = (f"{counted.parameters:,}", size(counted.weight_bytes), f"{counted.flops:,}")
    table.add_row("total", "", "", *total, style="bold")
    show_table(table)
    screen = stdout()
    active = counted.config.num_active_parameters()
    if active != counted.parameters:
        screen.line(f"active parameters (what one token meets): {active:,}")
    screen.line(f"attention adds {counted.attention_flops:,} FLOPs per token for each token looked back at")
    screen.line(f"KV cache: {counted.cache_bytes:,} bytes per token")
    screen.line()


def show_fit(counted: Ledger, places: list[Memory]) -> None:
    """Weights and cache at several context sizes, and whether each place has room for them."""
    table = plain_table(
        "context", "KV cache", "with weights", *(f"fits {place.name}?" for place in places), left=0
    )
    for context in contexts(counted):
        cache = context * counted.cache_bytes
        fits = ["yes" if counted.weight_bytes + cache <= place.free else "no" for place in places]
        table.add_row(f"{context:,}", size(cache), size(counted.weight_bytes + cache), *fits)
    show_table(table)
    for place in places:
        tokens = counted.tokens_that_fit(place.free)
        room = f"a context of {tokens:,} tokens fits" if tokens else "the weights do not fit"
        stdout().line(f"{place.name}: {size(place.free)} free of {size(place.total)}: {room}")


def show_path() -> None:
    """Whether native code runs here, and why not."""
    from pureqwen.kernels import native

    reason = native()
    words = "native code" if reason is None else f"PyTorch alone, which is slower, since {reason}"
    stdout().line(f"on a CPU an answer is computed by {words}")


def contexts(counted: Ledger) -> list[int]:
    longest = counted.config.context_length
    return [*(context for context in CONTEXTS if context < longest), longest]


def size(num_bytes: int) -> str:
    """Bytes in the decimal units that disks and GPUs are sold in."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{num_bytes} B"


def as_plain(model: str, found: Found, counted: Ledger, places: list[Memory]) -> dict[str, Any]:
    """Everything that the tables show, and the config."""
    return {
        "model": model,
        "origin": found.origin,
        "reconstructed": found.preset is not None and found.preset.reconstructed,
        "item_bytes": counted.item_bytes,
        "config": found.config.to_dict(),
        "parameters": counted.parameters,
        "active_parameters": found.config.num_active_parameters(),
        "bytes": counted.weight_bytes,
        "flops_per_token": counted.flops,
        "attention_flops_per_token_and_context_token": counted.attention_flops,
        "kv_bytes_per_token": counted.cache_bytes,
        "parts": [
            {
                "path": part.path,
                "shape": list(part.shape),
                "count": part.count,
                "active": part.active,
                "parameters": part.parameters,
                "bytes": part.num_bytes,
                "flops_per_token": part.flops,
            }
            for part in counted.parts
        ],
        "memory": [
            {
                "name": place.name,
                "total": place.total,
                "free": place.free,
                "context_that_fits": counted.tokens_that_fit(place.free),
            }
            for place in places
        ],
    }
