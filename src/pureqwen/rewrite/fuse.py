"""Blocks whose steps between the products are native: one pass where PyTorch makes five, and no pass twice.

    Block        norm -> q, k, v -> norm -> rotate -> attend -> o_proj -> norm -> gate, up -> down_proj
    FusedBlock   the same, but a norm, a rotation with its norm, or a gate is one operation, and where the
                 weights are whole numbers it makes whole numbers of its result, once for all that read it

A step of generation multiplies each weight once, in about as long as reading it takes; between the products
are small vectors, and there what costs is that an operation is started at all. The parameters are the
block's own, under the same names, and so is the arithmetic, up to the order of adding floats. With gradients,
on another device, or where somebody listens (a hook on a part), it computes as the Block does.
"""

import torch
from torch import Tensor, nn

from pureqwen import kernels
from pureqwen.kernels import Whole
from pureqwen.model import MLP, Attend, Attention, Block, MoE, Qwen3, RMSNorm
from pureqwen.rewrite.quantize import Quantized
from pureqwen.rewrite.walk import replace

Rows = Tensor | Whole  # (M, K)


class FusedBlock(Block):
    """A `Block` of the same parts, for a CPU."""

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        for name, part in block.named_children():
            self.add_module(name, part)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        if not self.fuses(x):
            return super().forward(x, angles, attend)
        rows = x.reshape(-1, x.shape[-1]).contiguous()  # (T, D)
        rows = rows + self.attended(rows, x.shape[:-1], angles, attend)
        rows = rows + self.fed_forward(rows)
        return rows.view(x.shape)

    def fuses(self, x: Tensor) -> bool:
        """Whether the parts are those that this class knows, nobody listens, and no gradient is asked for."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not kernels.runs(x):
            return False
        attn, mlp = self.self_attn, self.mlp
        if type(attn) is not Attention or type(mlp) not in (MLP, MoE):
            return False
        norms = [self.input_layernorm, self.post_attention_layernorm, attn.q_norm, attn.k_norm]
        if any(type(norm) is not RMSNorm for norm in norms):
            return False
        matrices = [attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj]
        if isinstance(mlp, MLP):
            matrices += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        return not any(listened(part) for part in (attn, mlp, *norms, *matrices))

    def attended(
        self, x: Tensor, leading: torch.Size, angles: tuple[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        """What the attention adds to the rows x (T, D); leading (B, S) or (T,)."""
        attn, T = self.self_attn, len(x)
        readers = (attn.q_proj, attn.k_proj, attn.v_proj)
        h = normed(x, self.input_layernorm, *readers)
        q, k, v = (product(h, proj).view(T, -1, attn.head_dim) for proj in readers)
        cos, sin = (part.expand(*leading, 1, -1).reshape(T, -1) for part in angles)  # (T, Dh/2)
        q = kernels.qk_norm_rope(q, attn.q_norm.weight, attn.q_norm.eps, cos, sin)  # (T, H, Dh)
        k = kernels.qk_norm_rope(k, attn.k_norm.weight, attn.k_norm.eps, cos, sin)  # (T, Hkv, Dh)
        o = attend(*(part.view(*leading, *part.shape[1:]) for part in (q, k, v)))
        return product(as_read(o.reshape(T, -1), attn.o_proj), attn.o_proj)

    def fed_forward(self, x: Tensor) -> Tensor:
        """What the feed-forward network adds to the rows x (T, D)."""
        if isinstance(self.mlp, MLP):
            readers = (self.mlp.gate_proj, self.mlp.up_proj)
            return swiglu(normed(x, self.post_attention_layernorm, *readers), self.mlp)
        norm = self.post_attention_layernorm
        out: Tensor = self.mlp(kernels.rms_norm(x, norm.weight, norm.eps))
        return out


def listened(part: nn.Module) -> bool:
    """Whether a hook waits for this part to be called."""
    return bool(part._forward_hooks or part._forward_pre_hooks)


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


def swiglu(rows: Rows, mlp: MLP) -> Tensor:
    """The feed-forward network on rows (M, D)."""
    gate, up = product(rows, mlp.gate_proj), product(rows, mlp.up_proj)
    if isinstance(mlp.down_proj, Quantized):
        return mlp.down_proj.product(kernels.swiglu_quantize(gate, up))
    return product(kernels.swiglu(gate, up), mlp.down_proj)


def fuse(model: Qwen3) -> Qwen3:
    """The model with fused blocks; parameters are the very same, and so are their names."""
    return replace(model, "model.layers.*", lambda _, old: FusedBlock(old) if type(old) is Block else old)
