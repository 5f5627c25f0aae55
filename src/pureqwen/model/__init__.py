"""What is computed: Qwen3 as tensors in, tensors out. No files, no caches, no processes, no phases.

Read in this order: layers (RMSNorm, SwiGLU), rope (positions), attention (grouped queries, QK-norm,
`attend`), moe (router and experts), transformer (block, model, head).

The shapes in the comments, everywhere in the package:

    B batch     S sequence     T tokens (packed, or B*S)     D hidden_size
    H heads     Hkv key/value heads     G = H / Hkv queries that share one key     Dh head_dim
    F intermediate_size     E experts     K chosen experts     V vocabulary     C cache capacity

Modules act on the last dimension only; what stands before it, (B, S) or (T,), is the caller's.
"""

from pureqwen.model.attention import Attend, Attention, CausalAttend, PackedAttend
from pureqwen.model.layers import MLP, Pulled, Read, RMSNorm
from pureqwen.model.moe import Experts, MoE, naive_experts
from pureqwen.model.rope import Rope, rotate
from pureqwen.model.transformer import Block, Decoder, Qwen3

__all__ = [
    "MLP",
    "Attend",
    "Attention",
    "Block",
    "CausalAttend",
    "Decoder",
    "Experts",
    "MoE",
    "PackedAttend",
    "Pulled",
    "Qwen3",
    "RMSNorm",
    "Read",
    "Rope",
    "naive_experts",
    "rotate",
]
