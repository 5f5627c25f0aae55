"""Weights in 8 or 4 bits: a model whose products read a half or a quarter of the bytes.

    int8       W = q s[n]     q from -127 to 127, one scale s for each row n of a matrix (out, in)
    int4-gG    W = q s[n,g]   q from -8 to 7, one scale for every G weights of a row

q is W / s to the nearest. In 8 bits s is the largest |W| over 127. In 4 bits it is the largest weight, with
its sign, over one of -STEPS, whichever leaves the least squared error: so the lowest number, -8, which has no
positive brother, stands where it is needed. s is rounded to the weights' dtype before q is made.

Products round their activations to 8 bits as well, one scale for each row of them, anew each time
(kernels.twins.whole). What is quantised: every projection of attention and feed-forward network, and the
head, which in small models is most of what a step reads. What stays: embedding, norms and routers.

Names and layout are those of compressed-tensors, in which vLLM and transformers read them:

    q_proj.weight         int8 (N, K)        q_proj.weight_scale   (N, 1)       int-quantized, W8A8
    q_proj.weight_packed  int32 (N, K/8)     q_proj.weight_scale   (N, K/G)     pack-quantized, W4A16

It calibrates nothing: rounding to the nearest needs no data.
"""

import dataclasses

import torch
from torch import Tensor, nn

from pureqwen import kernels
from pureqwen.config.quantization import Scheme, quantization_config, scheme_of
from pureqwen.kernels import twins
from pureqwen.model import MLP, Experts, Qwen3
from pureqwen.model.moe import PARTS, each_expert, scattered
from pureqwen.rewrite.walk import find, replace

PROJECTIONS = ("self_attn.[qkvo]_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp.experts")
STEPS = (7.5, 8.0, 8.4, 8.8, 9.2)  # scales that are tried for a group of 4-bit weights
BLOCK = 1 << 22  # weights that are floats at a time


class Int8Linear(nn.Module):
    """A Linear without bias, its weight int8 (N, K) with a scale for each row."""

    def __init__(self, in_features: int, out_features: int, *, group: int | None, dtype: torch.dtype) -> None:
        super().__init__()
        assert group is None
        weight = torch.empty(out_features, in_features, dtype=torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(out_features, 1, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return kernels.linear_int8(x, self.weight, self.weight_scale)

    def product(self, rows: kernels.Whole) -> Tensor:
        """What forward makes of the rows (M, K) that these whole numbers stand for: (M, N)."""
        return kernels.product_int8(rows, self.weight, self.weight_scale)

    def dequantized(self) -> Tensor:
        """(N, K) float32: what the weights say."""
        return self.weight.float() * self.weight_scale.float()

    @staticmethod
    def made(weight: Tensor, group: int | None) -> dict[str, Tensor]:
        """The parameters that stand for a float weight (N, K)."""
        scale = _usable(weight.float().abs().amax(dim=-1, keepdim=True) / 127, weight.dtype)
        q = (weight.float() / scale.float()).round().clamp(-127, 127)
        return {"weight": q.to(torch.int8), "weight_scale": scale}


class Int4Linear(nn.Module):
    """A Linear without bias, its weight in 4 bits, packed (N, K/8), with a scale for each group of a row."""

    def __init__(self, in_features: int, out_features: int, *, group: int | None, dtype: torch.dtype) -> None:
        super().__init__()
        assert group is not None
        assert in_features % group == 0
        self.weight_packed = nn.Parameter(
            torch.empty(out_features, in_features // 8, dtype=torch.int32), requires_grad=False
        )
        scale = torch.empty(out_features, in_features // group, dtype=dtype)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        self.weight_shape = nn.Parameter(torch.empty(2, dtype=torch.int64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return kernels.linear_int4(x, self.weight_packed, self.weight_scale)

    def product(self, rows: kernels.Whole) -> Tensor:
        """What forward makes of the rows (M, K) that these whole numbers stand for: (M, N)."""
        return kernels.product_int4(rows, self.weight_packed, self.weight_scale)

    def dequantized(self) -> Tensor:
        """(N, K) float32: what the weights say."""
        groups = twins.unpack(self.weight_packed).float().view(*self.weight_scale.shape, -1)
        return (groups * self.weight_scale.float()[..., None]).flatten(-2)

    @staticmethod
    def made(weight: Tensor, group: int | None) -> dict[str, Tensor]:
        """The parameters that stand for a float weight (N, K)."""
        assert group is not None
        wide = weight.float().view(len(weight), -1, group)
        scale = _best_scale(wide, weight.dtype)
        q = _nearest(wide, scale).to(torch.int8).flatten(-2)
        return {
            "weight_packed": twins.pack(q),
            "weight_scale": scale.squeeze(-1),
            "weight_shape": torch.tensor(weight.shape),
        }


Quantized = Int8Linear | Int4Linear


def kind_of(scheme: Scheme) -> type[Int8Linear] | type[Int4Linear]:
    """The class of a matrix in this scheme."""
    return Int8Linear if scheme.bits == 8 else Int4Linear


def _usable(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """In the dtype it is stored in; 1 where all weights are zero."""
    scale = scale.to(dtype)
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _nearest(wide: Tensor, scale: Tensor) -> Tensor:
    return (wide / scale.float()).round().clamp(-8, 7)


def _best_scale(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """Of groups (..., G): the scale (..., 1) of those tried with which rounding loses least."""
    largest = wide.gather(-1, wide.abs().argmax(dim=-1, keepdim=True))
    best, least = None, None
    for steps in STEPS:
        scale = _usable(largest / -steps, dtype)
        error = (_nearest(wide, scale) * scale.float() - wide).square().sum(-1, keepdim=True)
        if best is None or least is None:
            best, least = scale, error
        else:
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    assert best is not None
    return best


class QuantizedExperts(nn.ModuleList):
    """Experts, each a SwiGLU network of three quantised matrices under the names of the file."""

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """x (T, D), weights and chosen (T, K) to (T, D)."""
        if self.takes(x):
            return self.in_one_call(x, weights, chosen)
        return scattered(x, weights, chosen, len(self), self.run)

    def takes(self, x: Tensor) -> bool:
        """Whether tokens x (T, D) go through their experts in one native call."""
        return kernels.takes_experts(x)

    def in_one_call(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        hit = sorted(set(chosen.flatten().tolist()))
        return kernels.experts(x, weights, chosen, [tensor for e in hit for tensor in self.matrices(e)])

    def matrices(self, e: int) -> list[Tensor]:
        """Those of expert e, each with its scales behind it."""
        parts, found = self._modules[str(e)]._modules, []  # a module finds a child slowly
        for part in PARTS:
            kept = parts[part]._parameters  # type: ignore[union-attr]
            found += [kept["weight_packed" if "weight_packed" in kept else "weight"], kept["weight_scale"]]
        return found  # type: ignore[return-value]

    def run(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Rows (T*K, D) sorted by expert, whose rows end at `ends` (E,)."""
        return each_expert(rows, ends, self.one)

    def one(self, e: int, rows: Tensor) -> Tensor:
        """Expert e on rows (N, D), which are rounded once for both products that read them."""
        mlp, whole = self[e], kernels.quantize(rows)
        gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        assert isinstance(gate, Quantized) and isinstance(up, Quantized) and isinstance(down, Quantized)
        return down.product(kernels.swiglu_quantize(gate.product(whole), up.product(whole)))


def quantize(model: Qwen3, scheme: str | Scheme, *, head: str | Scheme | None = "int8") -> Qwen3:
    """The model with its projections, and its head, in fewer bits; what stays is shared with nobody new.

    scheme: int8, int4-g32, int4-g64 or int4-g128. head: one of these, or None to leave it. On a loaded model
    the weights are rounded; on the meta device the structure is made for a file that was quantised.
    The head of a tied model becomes a matrix of its own. Raises ValueError for an unknown scheme, for rows
    that can't be cut into groups, and for a model that is quantised already.
    """
    body, top = scheme_of(scheme), None if head is None else scheme_of(head)
    if model.config.quantization_config is not None:
        raise ValueError("the model is quantised already: begin with the one it was made from")
    if model.config.attention_bias:
        raise ValueError("attention_bias: projections with a bias are not quantised")
    _refuse_misfits(model, body, top)
    for pattern in PROJECTIONS:
        if _has(model, pattern):
            replace(model, f"model.layers.*.{pattern}", lambda _, old: _quantized(old, body))
    if top is not None:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach(), requires_grad=False)  # untied
        replace(model, "lm_head", lambda _, old: _quantized(old, top))
    model.config = dataclasses.replace(
        model.config,
        quantization_config=quantization_config(body, top),
        tie_word_embeddings=model.config.tie_word_embeddings and top is None,
    )
    return model


def _refuse_misfits(model: Qwen3, body: Scheme, head: Scheme | None) -> None:
    """Before anything is changed: rows that the schemes can't cut, and a head that is not there."""
    config = model.config
    inner = {config.intermediate_size, config.num_attention_heads * config.head_dim, config.hidden_size}
    if config.num_experts:
        inner.add(config.moe_intermediate_size)
    for scheme, widths in ((body, inner), (head, {config.hidden_size})):
        for width in sorted(widths):
            if scheme is not None and scheme.group and width % scheme.group:
                raise ValueError(
                    f"rows of {width} weights can't be cut into groups of {scheme.group}: take int8"
                )
    if head is not None and not isinstance(model.lm_head, nn.Linear):
        raise ValueError("the model has no lm_head to quantise: head=None leaves it")


def _has(model: Qwen3, pattern: str) -> bool:
    try:
        return bool(find(model, f"model.layers.*.{pattern}"))
    except ValueError:  # a dense model has no experts, a mixture of experts may have no MLP
        return False


def _quantized(old: nn.Module, scheme: Scheme) -> nn.Module:
    if isinstance(old, Experts):
        return QuantizedExperts(_expert(old, e, scheme) for e in range(len(old.gate_proj)))
    assert isinstance(old, nn.Linear), old
    return _matrix(old.weight.detach(), scheme)


def _expert(experts: Experts, e: int, scheme: Scheme) -> MLP:
    """Expert e as a network of its own."""
    num_inner, width = experts.gate_proj.shape[1:]
    with torch.device("meta"):
        mlp = MLP(width, num_inner)
    for part in ("gate_proj", "up_proj", "down_proj"):
        setattr(mlp, part, _matrix(getattr(experts, part)[e].detach(), scheme))
    return mlp


def _matrix(weight: Tensor, scheme: Scheme) -> Quantized:
    with weight.device:
        new = kind_of(scheme)(weight.shape[1], weight.shape[0], group=scheme.group, dtype=weight.dtype)
    if not weight.is_meta:
        fill(new, weight, scheme)
    return new


@torch.no_grad()
def fill(layer: Quantized, weight: Tensor, scheme: Scheme) -> None:
    """Rounds a float weight into a layer, some rows at a time."""
    step = max(1, BLOCK // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        for name, value in layer.made(weight[rows], scheme.group).items():
            if name != "weight_shape":
                getattr(layer, name)[rows] = value
    if isinstance(layer, Int4Linear):
        layer.weight_shape.copy_(torch.tensor(weight.shape))
