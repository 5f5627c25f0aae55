"""Blocks whose steps between the products are native: one pass where PyTorch makes five, and no pass twice.

    Block        norm -> q, k, v -> norm -> rotate -> attend -> o_proj -> norm -> gate, up -> down_proj
    FusedBlock   the same, but a norm, a rotation with its norm, or a gate is one operation, and where the
                 weights are whole numbers it makes whole numbers of its result, once for all that read it

A step of generation multiplies each weight once, in about as long as reading it takes; between the products
are small vectors, and there what costs is that an operation is started at all. The parameters are the
block's own, under the same names, and so is the arithmetic, up to the order of adding floats. With gradients,
on another device, or where somebody listens (a hook on a part), it computes as the Block does. With few rows
each half of it is a single operation, the attention too, if its memory is one that native code can read; and
where that holds for all blocks, a FusedDecoder makes them one operation.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from pureqwen import kernels
from pureqwen.kernels import Whole
from pureqwen.model import MLP, Attend, Attention, Block, Decoder, MoE, Qwen3, RMSNorm
from pureqwen.model.rope import Rope
from pureqwen.rewrite.few import NativeExperts, NativeLinear
from pureqwen.rewrite.quantize import Int4Linear, Int8Linear, Quantized, QuantizedExperts
from pureqwen.rewrite.walk import replace

Rows = Tensor | Whole  # (M, K)


class FusedBlock(Block):
    """A `Block` of the same parts, for a CPU."""

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        for name, part in block.named_children():
            self.add_module(name, part)
        self._parts = Parts(self)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        parts = self.parts()
        if not parts.fuses(x):
            return super().forward(x, angles, attend)
        rows = x.reshape(-1, x.shape[-1]).contiguous()  # (T, D)
        turns = per_token(angles, x.shape[:-1])
        at_once = parts.at_once and not _one_by_one and len(rows) <= kernels.FEW
        pages = attend if at_once and isinstance(attend, kernels.InPlace) else None
        if pages and (place := pages.place(x)):
            rows = kernels.attention(rows, read(parts.attending), turns, place, pages, eps=parts.eps)
        else:
            rows = parts.attended(rows, x.shape[:-1], turns, attend)
        return (parts.fed(rows) if at_once else parts.fed_forward(rows)).view(x.shape)

    def parts(self) -> "Parts":
        """Its parts; looked up anew where one was replaced."""
        if self._parts.found != found(self):
            self._parts = Parts(self)
        return self._parts


class FusedDecoder(Decoder):
    """A `Decoder` of the same parts, for a CPU."""

    def __init__(self, decoder: Decoder) -> None:
        nn.Module.__init__(self)
        for name, part in decoder.named_children():
            self.add_module(name, part)
        self.rope = decoder.rope
        self._layers = Layers(())
        self._rope: tuple[object, Tensor] = (), torch.empty(0)  # what it is made of, and its frequencies

    def forward(self, ids: Tensor, positions: Tensor, attends: Sequence[Attend]) -> Tensor:
        x = self.embed_tokens(ids)  # (..., D)
        angles = self.angles(positions, x)
        few = ids.numel() <= kernels.FEW and computes(x) and not _one_by_one
        layers = self.known() if few else None
        where = in_place(attends, x) if layers else None
        if not layers or not where:
            for layer, attend in zip(self.layers, attends, strict=True):
                x = layer(x, angles, attend)
            return self.last(x)
        place, pages = where
        rows, turns = x.reshape(-1, x.shape[-1]).contiguous(), per_token(angles, x.shape[:-1])
        if not layers.dense:
            for part, its in zip(layers.parts, pages, strict=True):
                rows = kernels.attention(rows, read(part.attending), turns, place, its, eps=part.eps)
                rows = part.fed(rows)
            return self.last(rows.view(x.shape))
        weights, norm, eps = read(layers.shelves), self.norm, layers.parts[0].eps
        if ends := plain(norm) and norm.eps == eps:  # then the last norm is of the same call
            weights.append(norm.weight)
        x = kernels.blocks(rows, weights, turns, place, pages, eps=eps).view(x.shape)
        return x if ends else self.last(x)

    def angles(self, positions: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rope's, at these positions; for few rows computing its frequencies is most of the work."""
        rope, (made_of, frequencies) = self.rope, self._rope
        if type(rope) is not Rope or not computes(x):
            return rope(positions, x.dtype)
        if made_of != (now := tuple(vars(rope).values())):
            self._rope = _, frequencies = now, rope.frequencies(x.device)
        return rope.angles(positions, frequencies, x.dtype)

    def last(self, x: Tensor) -> Tensor:
        """The last norm of x (..., D), of each row alike, few or many."""
        norm = self.norm
        if not plain(norm) or not computes(x):
            out: Tensor = norm(x)
            return out
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return kernels.rms_norm(rows, norm.weight, norm.eps).view(x.shape)

    def known(self) -> "Layers | None":
        """The layers, looked up anew where one was replaced; None where they can't be one call."""
        blocks = self.layers._modules.values()
        if not self._layers.are(blocks):
            self._layers = Layers(blocks)
        return self._layers if self._layers.at_once and not any(self._layers.hooks) else None


def in_place(attends: Sequence[Attend], x: Tensor) -> tuple[kernels.Place, Sequence[kernels.InPlace]] | None:
    """Where a step of x (..., D) has its keys and values, if all layers have them at the same place."""
    pages = [attend for attend in attends if isinstance(attend, kernels.InPlace)]
    place = pages[0].place(x) if pages and len(pages) == len(attends) else None
    if place is None:
        return None
    kind = type(pages[0])
    alike = vars(kind).get("ALIKE", False)  # of this very kind: a subclass may see to its layers one by one
    for attend in pages[1:]:
        same = type(attend) is kind and (alike or attend.place(x) is not None)
        if not same or attend.slots is not place.slots:
            return None
    return place, pages


_one_by_one = False


@contextmanager
def one_by_one() -> Iterator[None]:
    """Within it each operation of a block is a call of its own, but for a router with its norm: slower, but a
    profiler tells them apart.
    """
    global _one_by_one
    _one_by_one = True
    try:
        yield
    finally:
        _one_by_one = False


def plain(norm: nn.Module) -> bool:
    """Whether a norm is an RMSNorm and no more: nobody listens."""
    return type(norm) is RMSNorm and not norm._forward_hooks and not norm._forward_pre_hooks


def computes(x: Tensor) -> bool:
    """Whether native code runs on x, and neither a gradient nor a compiler asks for PyTorch's operations."""
    return kernels.runs(x) and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def per_token(angles: Sequence[Tensor], leading: torch.Size) -> Sequence[Tensor]:
    """The angles of each of T = B*S tokens; they may come once for several rows. leading (B, S) or (T,)."""
    if angles[0].shape[:-2] == leading:
        return angles
    return [part.expand(*leading, 1, -1).reshape(-1, part.shape[-1]) for part in angles]


def holders(block: Block) -> list[dict[str, nn.Module | None]]:
    """Where a block keeps its modules, down to its matrices and norms."""
    return [block._modules, block.self_attn._modules, block.mlp._modules]


def found(block: Block) -> list[nn.Module | None]:
    """The modules that are there; the same ones are equal."""
    return [module for holder in holders(block) for module in holder.values()]


class Parts:
    """What a block is made of, looked up once: a module takes its time to find a child by name, and a step
    asks for a thousand.
    """

    def __init__(self, block: Block) -> None:
        self.found = found(block)
        self.attn, self.mlp = attn, mlp = block.self_attn, block.mlp
        self.norms = [block.input_layernorm, block.post_attention_layernorm]
        self.known = type(attn) is Attention and type(mlp) in (MLP, MoE)
        self.at_once, self.eps = False, 0.0  # whether native code takes several operations in one call
        self.hooks: list[dict[int, Any]] = []
        if self.known:
            self.heads = [attn.q_norm, attn.k_norm]
            self.readers = [attn.q_proj, attn.k_proj, attn.v_proj]
            self.feeders = [mlp.gate_proj, mlp.up_proj, mlp.down_proj] if isinstance(mlp, MLP) else []
            self.mixture = Mixture(mlp) if isinstance(mlp, MoE) else None
            norms, matrices = [*self.norms, *self.heads], [*self.readers, attn.o_proj, *self.feeders]
            mixed = [mlp.gate, mlp.experts] if isinstance(mlp, MoE) else []
            listeners = [attn, mlp, *norms, *matrices, *mixed]
            self.hooks = [hooks for x in listeners for hooks in (x._forward_hooks, x._forward_pre_hooks)]
            self.known = all(type(norm) is RMSNorm for norm in norms)
            alike = self.known and len({norm.eps for norm in norms}) == 1
            self.at_once = alike and all(agree(part) for part in (self.readers, [attn.o_proj], self.feeders))
            if self.at_once:
                self.eps = self.norms[0].eps
                first, second = map(weights, self.norms)
                self.attending = [*first, *weights(*self.readers, *self.heads, attn.o_proj)]
                self.feeding = [*second, *weights(*self.feeders)] if self.feeders else []

    def fuses(self, x: Tensor) -> bool:
        """Whether the parts are those that are known here, nobody listens, and no gradient is asked for."""
        return self.known and computes(x) and not any(self.hooks)

    def attended(self, x: Tensor, leading: torch.Size, turns: Sequence[Tensor], attend: Attend) -> Tensor:
        """The rows x (T, D) with what the attention adds; leading (B, S) or (T,), turns (T, Dh/2)."""
        attn, T = self.attn, len(x)
        h = normed(x, self.norms[0], *self.readers)
        q, k, v = (product(h, part) for part in self.readers)
        q, k = (
            kernels.qk_norm_rope(y.view(T, -1, attn.head_dim), norm.weight, norm.eps, *turns)
            for y, norm in zip((q, k), self.heads, strict=True)
        )  # (T, H, Dh), (T, Hkv, Dh)
        o = attend(*(y.view(*leading, -1, attn.head_dim) for y in (q, k, v))).reshape(T, -1)
        return x + product(as_read(o, attn.o_proj), attn.o_proj)

    def fed(self, x: Tensor) -> Tensor:
        """Few rows x (T, D) with what the feed-forward network adds; of one MLP in one call."""
        if self.feeding:
            return kernels.feed_forward(x, read(self.feeding), eps=self.eps)
        return self.fed_forward(x)

    def fed_forward(self, x: Tensor) -> Tensor:
        """The rows x (T, D) with what the feed-forward network adds."""
        norm = self.norms[1]
        if self.mixture is not None:
            return x + self.mixture(x, norm)
        gate, up, down = self.feeders
        rows = normed(x, norm, gate, up)
        opened, wide = product(rows, gate), product(rows, up)
        run = kernels.swiglu_quantize if isinstance(down, Quantized) else kernels.swiglu
        return x + product(run(opened, wide), down)


class Mixture:
    """The mixture of experts of a block, behind its norm."""

    def __init__(self, moe: MoE) -> None:
        self.moe, self.gate, experts = moe, moe.gate, cast(nn.Module, moe.experts)
        known = type(self.gate) in (nn.Linear, NativeLinear) and agree([self.gate])
        known = known and type(experts) in (NativeExperts, QuantizedExperts)
        self.native = cast(NativeExperts | QuantizedExperts, experts) if known else None

    def __call__(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """What it makes of the rows x (T, D), normed."""
        moe, native = self.moe, self.native
        if native is None or len(x) > kernels.FEW or not native.takes(x):
            out: Tensor = moe(kernels.rms_norm(x, norm.weight, norm.eps))
            return out
        num, whole, gate = moe.num_experts_per_tok, moe.norm_topk_prob, self.gate.weight
        routed = kernels.route(x, norm.weight, gate, eps=norm.eps, num_experts=num, sums_to_one=whole)
        return native.in_one_call(*routed)


class Layers:
    """All blocks, looked up once."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        self.blocks = list(blocks)
        fused = [block for block in self.blocks if type(block) is FusedBlock]
        self.parts = [block.parts() for block in fused]
        self.holders = [holder for block in fused for holder in holders(block)]
        self.found = self.now()
        alike = len(fused) == len(self.blocks) and len({part.eps for part in self.parts if part.at_once}) == 1
        self.at_once = alike and all(part.at_once for part in self.parts)
        self.dense = self.at_once and all(part.feeding for part in self.parts)
        own = [hooks for block in fused for hooks in (block._forward_hooks, block._forward_pre_hooks)]
        self.hooks = [*own, *(hooks for part in self.parts for hooks in part.hooks)]
        if self.dense:
            self.shelves = [shelf for part in self.parts for shelf in (*part.attending, *part.feeding)]

    def now(self) -> list[nn.Module | None]:
        """What is in the blocks."""
        return [module for holder in self.holders for module in holder.values()]

    def are(self, blocks: Iterable[nn.Module]) -> bool:
        """Whether these blocks are they, and in them are the very same modules."""
        return self.blocks == list(blocks) and self.found == self.now()


KINDS = (nn.Linear, NativeLinear, Int8Linear, Int4Linear)  # those that are no more than their weights


def agree(readers: Sequence[nn.Module]) -> bool:
    """Whether these matrices are no more than weights that native code reads, and all, or none, of whole
    numbers.
    """
    if not all(type(part) in KINDS for part in readers):
        return False
    floats = [part for part in readers if isinstance(part, nn.Linear)]
    fit = all(part.bias is None and part.in_features % kernels.LINE == 0 for part in floats)
    return fit and len(floats) in (0, len(readers))


Shelf = tuple[dict[str, nn.Parameter | None], str]  # where a module keeps a parameter, and what it calls it


def weights(*parts: nn.Module) -> list[Shelf]:
    """Where the weights of norms, and those of matrices with their scales, are found."""
    shelves: list[Shelf] = []
    for part in parts:
        kept = part._parameters
        shelves.append((kept, "weight_packed" if isinstance(part, Int4Linear) else "weight"))
        if isinstance(part, Quantized):
            shelves.append((kept, "weight_scale"))
    return shelves


def read(shelves: Sequence[Shelf]) -> list[Tensor]:
    """What is there now."""
    return [kept[name] for kept, name in shelves]  # type: ignore[misc]  # these modules have them all


def normed(x: Tensor, norm: RMSNorm, *readers: nn.Module) -> Rows:
    """Rows x (M, K) normed, in the form in which `readers` multiply them."""
    whole = all(isinstance(reader, Quantized) for reader in readers)
    run = kernels.rms_norm_quantize if whole else kernels.rms_norm
    return run(x, norm.weight, norm.eps)


def as_read(x: Tensor, reader: nn.Module) -> Rows:
    """Rows x (M, K) in the form in which `reader` multiplies them."""
    return kernels.quantize(x) if isinstance(reader, Quantized) else x


def product(rows: Rows, matrix: nn.Module) -> Tensor:
    """Rows (M, K) by a matrix (N, K), whatever numbers it is made of: (M, N)."""
    if isinstance(rows, Whole):
        assert isinstance(matrix, Quantized)
        return matrix.product(rows)
    y: Tensor = matrix(rows)
    return y


def fuse(model: Qwen3) -> Qwen3:
    """The model with fused blocks; parameters are the very same, and so are their names."""
    replace(model, "model.layers.*", lambda _, old: FusedBlock(old) if type(old) is Block else old)
    return replace(model, "model", lambda _, old: FusedDecoder(old) if type(old) is Decoder else old)
