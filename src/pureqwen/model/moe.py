"""Mixture of experts: many feed-forward networks, of which each token goes through K.

    p       = softmax(router(x))  over all E experts, in float32
    chosen  = the K largest;  weights = p[chosen], made to sum to 1 when `norm_topk_prob`
    MoE(x)  = sum over the chosen e of  weights_e * MLP_e(x)

Shazeer et al. 2017, "Outrageously Large Neural Networks", section 2; Qwen3 Technical Report 2025, section 2
(128 experts, 8 chosen, none shared). 30B-A3B computes with 3.3 of its 30.5 billion parameters for each token.

`naive_experts` is the definition. `Experts.forward` gives the same numbers without looking at idle experts:

    pairs (token, expert)     t0:e5  t0:e2  t1:e2  t1:e7        T * K of them
    sorted by expert          e2: t0 t1    e5: t0    e7: t1     one sort: each expert's tokens lie together
    one product per expert    that was hit, on a view of its weights
    summed per token          out[t] += weight * y
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pureqwen.config import ModelConfig
from pureqwen.model.layers import Read

PARTS = ("gate_proj", "up_proj", "down_proj")


class MoE(nn.Module):
    """Router and experts in the place of one MLP: (..., D) -> (..., D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_experts_per_tok = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = Experts(config)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # (T, D)
        weights, chosen = self.route(self.gate(flat))
        out: Tensor = self.experts(flat, weights, chosen)
        return out.view_as(x)

    def route(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Router logits (T, E) to the weights (T, K) and numbers (T, K) of the chosen experts."""
        weights, chosen = logits.softmax(-1, dtype=torch.float32).topk(self.num_experts_per_tok, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights.to(logits.dtype), chosen


class Experts(nn.Module):
    """E SwiGLU networks, their weights stacked: gate_proj and up_proj (E, F, D), down_proj (E, D, F)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E, D, inner = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.empty(E, inner, D))
        self.up_proj = nn.Parameter(torch.empty(E, inner, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, inner))

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """x (T, D), weights and chosen (T, K) to (T, D)."""
        at_once = self.at_once and x.dtype == self.gate_proj.dtype
        if at_once and len(x) == 1 and torch.compiler.is_compiling():
            return self.gathered(x, weights, chosen)
        return scattered(x, weights, chosen, len(self.gate_proj), self.grouped if at_once else self.loop)

    @property
    def at_once(self) -> bool:
        """Whether all experts are computed without asking the device how many rows each got."""
        _, inner, width = self.gate_proj.shape
        aligned = inner % 8 == 0 and width % 8 == 0  # rows of whole 16 bytes
        return self.gate_proj.is_cuda and self.gate_proj.dtype == torch.bfloat16 and aligned

    def loop(self, x: Tensor, ends: Tensor) -> Tensor:
        """x (T*K, D) sorted by expert, whose rows end at `ends` (E,): one product per expert hit."""
        if not torch.is_grad_enabled():
            return each_expert(x, ends, self.one)
        # One gradient of the whole stack, where a view of each expert would make one each.
        gate, up, down = (getattr(self, part).unbind() for part in PARTS)
        return each_expert(x, ends, lambda e, rows: swiglu(rows, gate[e], up[e], down[e]))

    def grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        """The same in three grouped products, without asking the device how many rows each expert got."""
        ends = ends.to(torch.int32)
        gate = F.grouped_mm(x, self.gate_proj.transpose(-2, -1), offs=ends)  # (T*K, F)
        up = F.grouped_mm(x, self.up_proj.transpose(-2, -1), offs=ends)
        return F.grouped_mm(F.silu(gate) * up, self.down_proj.transpose(-2, -1), offs=ends)  # (T*K, D)

    def gathered(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The same for one token x (1, D), written so that torch.compile reads the weights of its experts
        where they lie, each once, and copies none.
        """
        gate, up, down = (getattr(self, part)[chosen[0]] for part in PARTS)  # (K, F, D) twice, (K, D, F)
        inner = F.silu((gate * x).sum(-1)) * (up * x).sum(-1)  # (K, F)
        out: Tensor = weights.mT * (down * inner[:, None]).sum(-1)  # (K, D)
        return out.sum(0, keepdim=True)

    def one(self, e: int, x: Tensor) -> Tensor:
        """Expert e on the rows x (N, D), through views of its weights."""
        return swiglu(x, self.gate_proj[e], self.up_proj[e], self.down_proj[e])

    def sources(self, path: str) -> list[str]:
        return [f"{path}.{e}.{part}.weight" for part in PARTS for e in range(len(self.gate_proj))]

    def fill(self, path: str, read: Read) -> None:
        """The file holds each expert by itself; here they are stacked, one after the other."""
        for part in PARTS:
            stacked = read.empty(getattr(self, part))
            for e in range(len(stacked)):
                read.into(stacked[e], f"{path}.{e}.{part}.weight")
            setattr(self, part, nn.Parameter(stacked))


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """One expert: x (N, D), gate and up (F, D), down (D, F) to (N, D)."""
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


Run = Callable[[Tensor, Tensor], Tensor]


def scattered(x: Tensor, weights: Tensor, chosen: Tensor, num_experts: int, run: Run) -> Tensor:
    """x (T, D), weights and chosen (T, K) to (T, D): sorts the pairs (token, expert), and sums by token what
    `run(rows, ends)` makes of them; rows (T*K, D) lie sorted by expert, those of expert e end at ends[e].
    """
    experts, order = chosen.flatten().sort(stable=True)  # (T*K,)
    tokens = order // chosen.shape[-1]
    ends = torch.searchsorted(experts, torch.arange(num_experts, device=x.device), right=True)
    y = run(x[tokens], ends) * weights.flatten()[order, None]  # (T*K, D)
    return torch.zeros_like(x).index_add_(0, tokens, y.to(x.dtype))


def each_expert(rows: Tensor, ends: Tensor, one: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Rows (T*K, D) sorted by expert, through `one(e, its rows)` for each expert that was hit."""
    bounds = ends.tolist()  # the one wait for the device; on a CPU it is none
    starts = [0, *bounds[:-1]]
    hit = [(e, start, end) for e, (start, end) in enumerate(zip(starts, bounds, strict=True)) if end > start]
    return torch.cat([one(e, rows[start:end]) for e, start, end in hit]) if hit else rows


def naive_experts(experts: Experts, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """The definition: every expert looks at every token, and takes part where it was chosen."""
    out = torch.zeros_like(x)
    for e in range(len(experts.gate_proj)):
        share = (weights * (chosen == e)).sum(-1, keepdim=True)  # (T, 1): 0 where e was not chosen
        out = out + share * experts.one(e, x)
    return out
