"""Schemes: how a matrix lies in 8 or 4 bits, and what a checkpoint's quantization_config says of it.

    int8       one scale for each row of a matrix (out, in)
    int4-gG    one scale for every G weights of a row

The words are those of compressed-tensors (W8A8 with one activation scale for each token, W4A16 in groups),
which vLLM and transformers read. The arithmetic is in rewrite/quantize.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

METHOD, INT, PACKED, MIXED = "compressed-tensors", "int-quantized", "pack-quantized", "mixed-precision"


@dataclass(frozen=True)
class Scheme:
    """How a matrix is stored: `bits` a weight, one scale for `group` weights of a row (None: for a row)."""

    name: str
    bits: int
    group: int | None = None

    def bits_with_scales(self, width: int, scale_bits: int) -> float:
        """Bits a weight in a row of `width`, its share of the scales included."""
        return self.bits + scale_bits / (self.group or width)

    def to_dict(self) -> dict[str, Any]:
        """Its group in a quantization_config."""
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if self.group else "channel",
            "group_size": self.group,
            "dynamic": False,
        }
        activations = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
        return {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": activations if self.bits == 8 else None,
            "output_activations": None,
            "format": INT if self.bits == 8 else PACKED,
        }


SCHEMES = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            Scheme("int8", 8),
            Scheme("int4-g32", 4, 32),
            Scheme("int4-g64", 4, 64),
            Scheme("int4-g128", 4, 128),
        )
    }
)


def scheme_of(name: str | Scheme) -> Scheme:
    """The scheme of that name, or ValueError with those there are."""
    if isinstance(name, Scheme):
        return name
    if name not in SCHEMES:
        raise ValueError(f"scheme {name!r} is unknown; there are {', '.join(SCHEMES)}")
    return SCHEMES[name]


def quantization_config(body: Scheme, head: Scheme | None) -> dict[str, Any]:
    """What config.json says of the weights, in compressed-tensors' words."""
    groups = {"group_0": body.to_dict()}
    ignore = [r"re:.*mlp\.gate$"]
    if head is None:
        ignore.append("lm_head")
    elif head != body:
        groups["group_0"]["targets"] = [r"re:.*\.(q|k|v|o|gate|up|down)_proj$"]
        groups["group_1"] = {**head.to_dict(), "targets": ["lm_head"]}
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": METHOD,
        "format": formats.pop() if len(formats) == 1 else MIXED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignore,
        "kv_cache_scheme": None,
    }


def schemes_in(config: Mapping[str, Any]) -> tuple[Scheme, Scheme | None]:
    """The schemes of body and head that a quantization_config describes; ValueError for any other."""
    for name in ("transform_config", "sparsity_config", "kv_cache_scheme"):
        if config.get(name):
            raise ValueError(f"it has a {name}")
    found: dict[str, Scheme] = {}
    groups, ignore = config.get("config_groups"), config.get("ignore") or ()
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise ValueError("its config_groups are no objects")
    for group in groups.values():
        scheme, targets = _scheme_in(group), group.get("targets")
        for target in targets if isinstance(targets, list) else [targets]:
            found["head" if _names_head(target) else "body"] = scheme
    if "body" not in found:
        raise ValueError("its config_groups name no Linear")
    if "head" not in found and not any(map(_names_head, ignore)):
        found["head"] = found["body"]
    return found["body"], found.get("head")


def _names_head(pattern: object) -> bool:
    """Whether a target or an entry of `ignore`, a name or re:PATTERN, means lm_head alone."""
    return isinstance(pattern, str) and pattern.rstrip("$").endswith("lm_head")


def _scheme_in(group: Mapping[str, Any]) -> Scheme:
    weights = group.get("weights") or {}
    size = weights.get("group_size") if weights.get("strategy") == "group" else None
    activations = group.get("input_activations")
    for scheme in SCHEMES.values():
        if (weights.get("num_bits"), size) == (scheme.bits, scheme.group) and weights.get("type") == "int":
            if not weights.get("symmetric", True):
                raise ValueError("its weights have zero points")
            if activations and (activations.get("num_bits"), activations.get("type")) != (8, "int"):
                raise ValueError("its activations are not whole numbers of 8 bits")
            if activations and not activations.get("dynamic"):
                raise ValueError("its activations have fixed scales")
            return scheme
    raise ValueError(
        f"its weights are {weights.get('num_bits')}-bit {weights.get('type')} by {weights.get('strategy')}"
        f"{f' of {size}' if size else ''}; read are {', '.join(SCHEMES)}"
    )
