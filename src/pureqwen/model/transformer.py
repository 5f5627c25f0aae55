"""Qwen3: token ids in, logits out.

    ids -> embed_tokens -> [ x + self_attn(input_layernorm(x))                   ] * num_hidden_layers
                           [ x + mlp(post_attention_layernorm(x))                ]
        -> norm -> lm_head -> logits

Qwen3 Technical Report 2025, section 2: a pre-norm decoder with RMSNorm, RoPE, grouped-query attention with
QK-norm, SwiGLU, no biases. Parameter names are the checkpoint's. Which layers are mixtures of experts is
decided in one line of `Block.__init__`; nothing else differs between dense and MoE models.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pureqwen.config import ModelConfig
from pureqwen.model.attention import Attend, Attention, CausalAttend
from pureqwen.model.layers import MLP, RMSNorm
from pureqwen.model.moe import Experts, MoE
from pureqwen.model.rope import Rope


class Block(nn.Module):
    """One layer: the residual stream (..., D) plus what attention and the feed-forward network add to it."""

    def __init__(self, config: ModelConfig, *, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MoE(config) if config.is_moe(layer) else MLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles, attend)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """The model without its head; `model.` in the checkpoint's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer=n) for n in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = Rope(config)

    def forward(self, ids: Tensor, positions: Tensor, attends: Sequence[Attend]) -> Tensor:
        x = self.embed_tokens(ids)  # (..., D)
        angles = self.rope(positions, x.dtype)
        for layer, attend in zip(self.layers, attends, strict=True):
            x = layer(x, angles, attend)
        out: Tensor = self.norm(x)
        return out


class Qwen3(nn.Module):
    """A Qwen3 language model, dense or mixture of experts, with random weights until others are loaded.

    `model(ids)` with ids (B, S), or (T,) packed, gives float32 logits (B, S, V) or (T, V): the plain causal
    forward.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.reset_parameters()
        self.tie()

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        attends: Sequence[Attend] | None = None,
        keep: Any = None,
    ) -> Tensor:
        """Logits of the token that follows each position.

        positions: shaped as ids; the place of each token in its text. Default 0, 1, 2, ...
        attends: one `Attend` per layer. Default: causal attention that keeps nothing.
        keep: which positions to compute logits for, by anything that indexes ids: a mask, indices, a tuple.
            Default all, which for long prompts is most of the memory: V is 151,936.
        """
        x = self.hidden(ids, positions, attends)
        return self.logits(x if keep is None else x[keep])

    def hidden(
        self, ids: Tensor, positions: Tensor | None = None, attends: Sequence[Attend] | None = None
    ) -> Tensor:
        """The final, normed hidden states (..., D): what the head reads, and what embeddings are made of."""
        if positions is None:
            positions = torch.arange(ids.shape[-1], device=ids.device).expand_as(ids)
        if attends is None:
            attends = [CausalAttend()] * len(self.model.layers)
        out: Tensor = self.model(ids, positions, attends)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to float32 logits (..., V)."""
        out: Tensor = self.lm_head(hidden).float()
        return out

    def tie(self) -> None:
        """Let head and embedding be one matrix where the config says so: held once, trained once."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fresh weights: normal with `initializer_range`, norms 1, biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | Experts):
                for name, parameter in module.named_parameters(recurse=False):
                    if name == "bias":
                        parameter.zero_()
                    else:
                        parameter.normal_(0.0, self.config.initializer_range)
