# %% [markdown]
# # Qwen3 from scratch, executed
#
# This page builds a Qwen3 language model, one step after the other, from the parts of this package. It is
# for people who know PyTorch but have never looked inside a language model. Nothing here is a toy copy:
# each step takes the module that the package runs, feeds it real tokens through the small model that ships
# with it (the *pocket*), and compares the result with the naive formula and with `transformers` on the same
# weights. Where the page says that two things are equal, an `assert` says so too.
#
# Every step names the file and the function where the code is (the paper it follows stands at the top of
# that file), and what GPT-2 did there instead. Most people meet the transformer through GPT-2 (2019); Qwen3
# (2025) is the same house with most of its parts renewed.
#
# The page is a Python script with cells, [from_scratch.py](from_scratch.py): run it, or open it as a
# notebook, and change things. What you read is rendered from it by `make docs`, with what it printed.
#
# Shapes use the same letters everywhere: `S` positions of the text, `D` width of a hidden vector, `H` query
# heads, `Hkv` key/value heads, `Dh` width of a head, `F` width inside the MLP, `V` size of the vocabulary,
# `E` experts, `K` experts chosen for a token.

# %%
import copy
import dataclasses
import json
import math
import random
import statistics
import tempfile
import time
from collections import Counter
from itertools import pairwise, product

import pictures  # this page's drawings: docs/pictures.py
import tokenizers
import torch
import transformers
from torch import Tensor
from torch._inductor.exc import InductorError
from torch.nn import functional as F
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

import pureqwen
from pureqwen.cache import StaticCache
from pureqwen.config import NEUTRAL, ModelConfig, SamplingParams
from pureqwen.explain import ledger
from pureqwen.explain.surprise import surprise
from pureqwen.generate import Sampler, greedy
from pureqwen.model import CausalAttend, MoE, Qwen3, naive_experts, rotate
from pureqwen.model.attention import scaled_dot_product
from pureqwen.weights import WeightError, load_model, resolve

torch.manual_seed(0)
torch.set_grad_enabled(False)  # we run the model, we do not train it
transformers.utils.logging.disable_progress_bar()

folder = resolve("pocket")
qwen = pureqwen.load(folder, dtype="float32", device="cpu")
model, config, tokenizer = qwen.model, qwen.config, qwen.tokenizer
peer = transformers.Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)  # the same weights


def agree(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> str:
    """Assert that two tensors are equal up to float32's rounding; say how large the difference is."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    gap = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    assert gap <= tolerance, gap
    return f"equal (they differ by {gap:.0e} of the largest value)" if gap else "equal to the last bit"


D, H, Hkv, Dh = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
print(f"the pocket: {config.num_parameters():,} parameters in {config.num_hidden_layers} blocks")
print(f"D = {D}, H = {H}, Hkv = {Hkv}, Dh = {Dh}, F = {config.intermediate_size}, V = {config.vocab_size}")

# %% [markdown]
# ## 1. Tokens
#
# A language model reads and writes integers. A tokenizer turns text into them and back. Qwen3's is a
# *byte-level BPE*. It begins with the 256 bytes as tokens and learns *merges* from much text: the pair of
# neighbours that is most frequent becomes a token of its own, again and again. To encode is to apply the
# merges in the order in which they were learned. So common words become one token, rare ones a few, and
# nothing is ever unknown: at worst, a text is its bytes. GPT-2 did the same first, with 50,000 merges;
# Qwen3 has 151,387.
#
# Here is all of it, on nine words (with letters for bytes):


# %%
def merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Join this pair wherever its two stand side by side."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


TEXT = "low lower lowest slow slower slowest new newer newest"
words = [list(word) for word in TEXT.split()]
merges = []
while len(merges) < 6:
    pairs = Counter(pair for parts in words for pair in pairwise(parts))
    merges.append(max(pairs, key=pairs.__getitem__))
    words = [merge(parts, merges[-1]) for parts in words]
    print("".join(merges[-1]).ljust(5), "|", "  ".join(" ".join(parts) for parts in words))

unseen = list("slownewest")
for pair in merges:
    unseen = merge(unseen, pair)
vocabulary = {token: id for id, token in enumerate(dict.fromkeys([*"lowersnt", *map("".join, merges)]))}
library = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
assert unseen == library.encode("slownewest").tokens
print("\na new word:", " ".join(unseen))

# %% [markdown]
# The package leaves this to the `tokenizers` library, which reads a checkpoint's `tokenizer.json`, and adds
# what it lacks: [`Tokenizer.encode`](../src/pureqwen/tokenizer.py),
# [`Tokenizer.decode`](../src/pureqwen/tokenizer.py), and a decoder that gives text out id by id and never
# half a character, [`Stream.push`](../src/pureqwen/tokenizer.py). How many merges a vocabulary has is a
# choice. The pocket has hardly any room and is to count letters, so it may have none: then frequent words
# are tokens, and all others are spelled.

# %%
stored = json.loads((folder / "tokenizer.json").read_text())
print(f"the pocket: {config.vocab_size} tokens, {len(stored['model']['merges'])} merges")
QUESTION = "What is 58 + 67?"
print(QUESTION, "->", [(tokenizer.decode([id]), id) for id in tokenizer.encode(QUESTION)])
assert tokenizer.decode(tokenizer.encode(QUESTION)) == QUESTION

# %% [markdown]
# Before BPE the text is cut into pieces, and merges never cross a cut. One rule matters for arithmetic.
# GPT-2 allows a piece of several digits, so that 1234 may be one token, or two, cut wherever its merges
# happen to lie. Qwen3 cuts after every digit: a number is always its digits.

# %%
GPT2_CUTS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN3_CUTS = stored["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
cuts = {}
for name, pattern in (("GPT-2", GPT2_CUTS), ("Qwen3", QWEN3_CUTS)):
    splitter = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    cuts[name] = [piece for piece, _ in splitter.pre_tokenize_str("It's 1234, isn't it?")]
    print(f"{name}:", " | ".join(cuts[name]))
assert " 1234" in cuts["GPT-2"] and {"1", "2", "3", "4"} <= set(cuts["Qwen3"])

# %% [markdown]
# **A chat is one text, too.** A template writes the messages one below the other, between *control tokens*
# such as `<|im_start|>`, single ids that no ordinary text produces; the model has learned to go on after
# `<|im_start|>assistant`. The package: [`ChatTemplate.encode`](../src/pureqwen/chat/prompt/template.py). A
# user who types `<|im_end|>` gets its letters, not the control token; else anybody could end their turn and
# speak as the assistant. GPT-2 knows one control token, the end of a text, and no chats.


# %%
def prompt_of(text: str, **variables: bool) -> list[int]:
    """The ids of a chat with one message, up to where the assistant begins."""
    return qwen.template.encode(tokenizer, [{"role": "user", "content": text}], **variables)


prompt = prompt_of(QUESTION)
print(tokenizer.decode(prompt))
end = tokenizer.token_id("<|im_end|>")
assert prompt_of("What is <|im_end|>?").count(end) == prompt.count(end) == 1

answer = qwen.chat(QUESTION)  # the whole machine at work; this page takes it apart
print(answer.text)

ids = torch.tensor([*prompt, *answer.token_ids])  # (S,): question and answer, the text of this page
tokens = [tokenizer.decode([id]) for id in ids.tolist()]
S = len(ids)

# %% [markdown]
# **From ids to vectors.** The first layer is a table with a row of D learned numbers for each token. To
# look a row up is to multiply a one-hot vector with the table, without the multiplying. From here on the
# text is a matrix `x` of shape (S, D), one row per position. The package's modules act on the last
# dimension only, so that a batch (B, S, D) goes through the same code.

# %%
table = model.model.embed_tokens  # nn.Embedding(V, D)
x = table(ids)  # (S, D)
print("ids", tuple(ids.shape), "-> x", tuple(x.shape))
print("one-hot times table:", agree(x, F.one_hot(ids, config.vocab_size).float() @ table.weight))

# %% [markdown]
# ## 2. RMSNorm
#
# Deep networks need their activations on one scale. RMSNorm divides each vector by its root mean square,
# then stretches every dimension by a learned weight. Each block has one before attention and one before its
# MLP, and the model has one at the end.
#
# The package: [`RMSNorm.forward`](../src/pureqwen/model/layers.py).
#
# GPT-2 has LayerNorm, which also subtracts the mean and adds a learned bias. Leaving both out costs no
# quality and saves work.

# %%
layer, peer_layer = model.model.layers[0], peer.model.layers[0]
norm, peer_norm = layer.input_layernorm, peer_layer.input_layernorm
h = norm(x)  # (S, D)

formula = x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * norm.weight
print("the formula: ", agree(h, formula))
print("transformers:", agree(h, peer_norm(x)))
before, after = (t[0].square().mean().sqrt().item() for t in (x, h / norm.weight))
print(f"root mean square of the first position: {before:.3f}, normalised {after:.3f}")


def gpt2_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm, as GPT-2 has it."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


w, b = torch.randn(2, D)
print("GPT-2's, by PyTorch:", agree(gpt2_norm(x, w, b), F.layer_norm(x, (D,), w, b, eps=1e-5)))

# %% [markdown]
# One trap: in bfloat16 the *order* counts. Qwen3 rounds the normalised vector to bfloat16, then multiplies
# by the weight. PyTorch's `F.rms_norm` multiplies first and rounds last, which is more exact, and not the
# model that was trained.

# %%
half, peer_half = copy.deepcopy(norm).bfloat16(), copy.deepcopy(peer_norm).bfloat16()
wide = torch.randn(64, D).bfloat16()
assert torch.equal(half(wide), peer_half(wide))  # equal to the last bit
other = F.rms_norm(wide, (D,), half.weight, eps=config.rms_norm_eps)
print(f"F.rms_norm differs in {(half(wide) != other).float().mean():.0%} of the numbers, in their last bit")

# %% [markdown]
# ## 3. RoPE: a position is an angle
#
# Attention, the next step, compares vectors without knowing where they stand: after "dog bites man" it
# would find what it finds after "man bites dog". GPT-2 learns a vector for each position and adds it to the
# embedding: `x + position_table(positions)`. That ends at position 1,023, for lack of a vector for 1,024,
# and "three tokens back" has to be learned anew for every place.
#
# RoPE adds nothing. It takes the vectors that attention compares (a query and a key, Dh numbers each),
# pairs their dimensions, and *turns* each pair like the hand of a clock, by an angle that grows with the
# position. When two hands are both turned further by the same angle, the angle between them stays: so a
# comparison sees the *distance* of two positions, and not where they are. Each pair has its own speed. Fast
# hands tell neighbours apart, slow ones tell far from near.
#
# The package: [`Rope.__call__`](../src/pureqwen/model/rope.py) makes the angles (and stretches them for
# longer texts, YaRN: [`Rope.frequencies`](../src/pureqwen/model/rope.py)),
# [`rotate`](../src/pureqwen/model/rope.py) turns. The naive formula is a complex number for each pair: to
# multiply it by `exp(i * angle)` is to turn it.

# %%
positions = torch.arange(S)
angles = model.model.rope(positions, torch.float32)  # cos and sin, (S, 1, Dh/2) each; the 1 is for the heads
heads = torch.randn(S, H, Dh)
turned = rotate(heads, angles)  # (S, H, Dh)

speed = config.rope_theta ** (-torch.arange(0, Dh, 2) / Dh)  # (Dh/2,): radians per position, for each pair
hands = torch.complex(*heads.chunk(2, dim=-1)) * torch.exp(1j * positions[:, None, None] * speed)
print("complex numbers:", agree(turned, torch.cat((hands.real, hands.imag), dim=-1)))

batched = heads.transpose(0, 1)[None]  # (1, H, S, Dh)
theirs, _ = apply_rotary_pos_emb(batched, batched, *peer.model.rotary_emb(batched, positions[None]))
print("transformers:   ", agree(turned, theirs[0].transpose(0, 1)))

# %% [markdown]
# Which dimensions make a pair is a convention that the weights depend on. Qwen3 pairs `i` with `i + Dh/2`,
# the *half-split* layout; the paper pairs `2i` with `2i + 1`. With the wrong one nothing crashes, and the
# model talks nonsense. And now the claim about distances: move query and key together, and the score stays.

# %%
q, k = F.normalize(torch.randn(2, 1, Dh), dim=-1)
k = F.normalize(q + 0.3 * k, dim=-1)  # a key that answers this query


def score(m: int, n: int) -> float:
    """The product of q at position m and k at position n."""
    cos, sin = model.model.rope(torch.tensor([m, n]), torch.float32)
    return (rotate(q, (cos[0], sin[0])) * rotate(k, (cos[1], sin[1]))).sum().item()


near, far = ([score(start, start - d) for d in range(65)] for start in (64, 1000))
print("moved by 936 positions:", agree(torch.tensor(near), torch.tensor(far), tolerance=1e-3))
pictures.rope(
    speed.numpy(),
    pairs=(0, Dh // 16, Dh // 8, Dh // 4),
    scores={"query at 64": near, "query at 1000": far, "without RoPE": [(q * k).sum().item()] * 65},
)

# %% [markdown]
# ## 4. Grouped-query attention with QK-norm
#
# Attention is how positions exchange information. Each position makes a *query* (what am I looking for?), a
# *key* (what do I offer?) and a *value* (what do I hand over?), all three by a matrix. The product of a
# query with every key, divided by sqrt(Dh), goes through a softmax; the result says how much of each value
# to take. A position may look at itself and at what stands before it, never ahead: the model is to
# *predict* what comes, so it must not see it.
#
# This happens H times side by side, in *heads* with their own queries: one may look for the last digit,
# another for the start of the line.
#
# The package: [`Attention.forward`](../src/pureqwen/model/attention.py). Two things are new since GPT-2:
#
# - **Grouped queries.** In GPT-2 each head has keys and values of its own. In Qwen3 a group of query heads
#   shares them: Hkv < H. During generation keys and values are kept (step 10), and there are fewer of them
#   to keep.
# - **QK-norm.** An RMSNorm over each head of q and k, before RoPE. However large the activations grow, the
#   size of q and k is that of the norm's weights: scores can't run away and freeze the softmax, and
#   training stays stable. Qwen2 had biases on q, k and v, as GPT-2 has on everything; with QK-norm they
#   were dropped.

# %%
attention = layer.self_attn
q = attention.q_proj(h).unflatten(-1, (-1, Dh))  # (S, H, Dh)
k = attention.k_proj(h).unflatten(-1, (-1, Dh))  # (S, Hkv, Dh)
v = attention.v_proj(h).unflatten(-1, (-1, Dh))  # (S, Hkv, Dh)
print("h", tuple(h.shape), "-> q", tuple(q.shape), " k", tuple(k.shape), " v", tuple(v.shape))
G = H // Hkv
for shared in range(Hkv):
    print(f"key/value head {shared} serves query heads {list(range(shared * G, (shared + 1) * G))}")

q, loud, k = attention.q_norm(q), attention.q_norm(1000 * q), attention.k_norm(k)
print("a query a thousand times as large, after QK-norm:", agree(loud, q, tolerance=1e-3))
q, k = rotate(q, angles), rotate(k, angles)


class Watching:
    """Attention as the formula has it; keeps the weights, to be looked at."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (t.repeat_interleave(q.shape[-2] // k.shape[-2], dim=-2) for t in (k, v))  # (S, H, Dh)
        scores = torch.einsum("shd,thd->hst", q, k) / q.shape[-1] ** 0.5  # (H, S, S)
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        self.weights = scores.masked_fill(ahead, float("-inf")).softmax(-1)  # (H, S, S)
        return torch.einsum("hst,thd->shd", self.weights, v)  # (S, H, Dh)


o = Watching()(q, k, v)  # (S, H, Dh)
out = attention.o_proj(o.flatten(-2))  # (S, D): mixes the heads
print("by hand:     ", agree(out, attention(h, angles, CausalAttend())))
peer_angles = peer.model.rotary_emb(h[None], positions[None])
print("transformers:", agree(out, peer_layer.self_attn(h[None], peer_angles, attention_mask=None)[0][0]))

# %% [markdown]
# `Watching` is an *attend*: a callable that is given q, k and v, and that decides what they may see and
# what is kept. It is the seam of this package between arithmetic and memory,
# [`Attend`](../src/pureqwen/model/attention.py): the model never knows whether there is a cache behind it.
# The plain one is [`CausalAttend`](../src/pureqwen/model/attention.py), which calls PyTorch's fused kernel.
#
# So any attend can be passed to the whole model, one per layer. Here is what two heads that share their
# keys look at in the pocket, while it works on the question. They have the same keys, and still look at
# different places, since their queries differ.

# %%
watching = [Watching() for _ in model.model.layers]
model(ids, attends=watching)
maps = torch.stack([attend.weights for attend in watching])  # (layers, H, S, S)
assert torch.allclose(maps.sum(-1), torch.ones(())) and (maps.triu(1) == 0).all()

shown = min(S, 46)
back = maps[..., :shown, :shown].tril(-3)[..., 1:].amax(-1).mean(-1)  # (layers, H): how sharply it looks back
place = back.unflatten(-1, (Hkv, G)).sum(-1).flatten().argmax().item()  # the group that does so most
number, shared = divmod(place, Hkv)
chosen = [shared * G + n for n in range(min(G, 2))]
pictures.attention(
    [maps[number, head, :shown, :shown].numpy() for head in chosen],
    titles=[f"block {number}, query head {head}, key/value head {shared}" for head in chosen],
    tokens=tokens[:shown],
)
print("the strongest looks further back than two tokens:")
for head in chosen:
    looks = maps[number, head, :shown, :shown].tril(-3)
    for place in looks.flatten().topk(4).indices.tolist():
        query, key = divmod(place, shown)
        share = looks[query, key].item()
        print(f"  head {head}: {tokens[query]!r} at {query} takes {share:.0%} from {tokens[key]!r} at {key}")

# %% [markdown]
# ## 5. SwiGLU
#
# After attention each position works by itself, in a *feed-forward network* (MLP): out to F dimensions,
# something nonlinear, back to D. GPT-2's has two matrices and a GELU between them. Qwen3's has three. Two
# go out, `gate` and `up`. The gate goes through SiLU (`z * sigmoid(z)`, close to GELU) and *multiplies* the
# other, so that each inner unit has a value, and a gate that opens or closes for it. At equal size this
# learns better; and the sizes are nearly equal: Qwen3-0.6B has F = 3 D, which makes 9 D^2 weights, GPT-2 F
# = 4 D and 8 D^2.
#
# The package: [`MLP.forward`](../src/pureqwen/model/layers.py).

# %%
x = x + out  # (S, D): what attention found is added; the next step says more
h = layer.post_attention_layernorm(x)
mlp = layer.mlp
gate, up = mlp.gate_proj(h), mlp.up_proj(h)  # (S, F) each
out = mlp.down_proj(gate * torch.sigmoid(gate) * up)  # (S, D)
print("h", tuple(h.shape), "-> inner", tuple(gate.shape), "-> out", tuple(out.shape))
print("the package: ", agree(out, mlp(h)))
print("transformers:", agree(out, peer_layer.mlp(h)))
print(f"gates below 0.05, nearly closed: {(F.silu(gate).abs() < 0.05).float().mean():.0%}")


def gpt2_mlp(x: Tensor, wide: Tensor, wide_bias: Tensor, back: Tensor, back_bias: Tensor) -> Tensor:
    """GPT-2's: x (S, D), wide (D, 4 D), back (4 D, D)."""
    return F.gelu(x @ wide + wide_bias, approximate="tanh") @ back + back_bias


# %% [markdown]
# ## 6. Block
#
# A block is attention, then MLP, each with a norm in front and each *added* to what came in. The stream of
# vectors that runs through the model with everything being added to it is the *residual stream*: it begins
# as the embedding, and every block writes its findings into it. Gradients run through the additions
# unhindered, which is why a hundred blocks can be trained.
#
# The package: [`Block.forward`](../src/pureqwen/model/transformer.py), two lines.

# %%
x = x + out  # with the last two steps, this is one whole block
print("by hand:     ", agree(x, layer(table(ids), angles, CausalAttend())))
print("transformers:", agree(x, peer_layer(table(ids)[None], position_embeddings=peer_angles)[0]))

# %% [markdown]
# GPT-2's block has the same skeleton: a norm in front of each part, two additions. Here it is in full,
# checked against transformers' on random weights. Compare its attention with the one above: one matrix with
# a bias makes q, k and v; every head has its own keys; nothing is normalised, nothing rotated.


# %%
def gpt2_block(x: Tensor, p: dict[str, Tensor], num_heads: int) -> Tensor:
    """x (S, D) through GPT-2's block with the parameters p."""
    h = gpt2_norm(x, p["ln_1.weight"], p["ln_1.bias"])
    qkv = h @ p["attn.c_attn.weight"] + p["attn.c_attn.bias"]  # (S, 3 D)
    q, k, v = (t.unflatten(-1, (num_heads, -1)) for t in qkv.chunk(3, dim=-1))  # (S, H, Dh) each
    x = x + Watching()(q, k, v).flatten(-2) @ p["attn.c_proj.weight"] + p["attn.c_proj.bias"]
    h = gpt2_norm(x, p["ln_2.weight"], p["ln_2.bias"])
    names = ("c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias")
    return x + gpt2_mlp(h, *(p[f"mlp.{name}"] for name in names))


old = transformers.GPT2Config(n_embd=D, n_head=H, attn_implementation="sdpa")
old_block = GPT2Block(old, layer_idx=0).eval()
for parameter in old_block.parameters():
    parameter.normal_(0, 0.1)
start = torch.randn(S, D)
theirs = old_block(start[None])[0]
parameters = dict(old_block.named_parameters())
print("GPT-2's block, by transformers:", agree(gpt2_block(start, parameters, H), theirs))

# %% [markdown]
# ## 7. Model
#
# The model is the embedding, the blocks one after the other, a last norm, and the *head*: a matrix from D
# to V that gives each token of the vocabulary a score, its *logit*, for standing next. In the smaller Qwen3
# models, and in the pocket, head and embedding are one and the same matrix (*tied*), as in GPT-2: it is a
# large part of a small model. From 8B on they are two.
#
# The package: [`Decoder.forward`](../src/pureqwen/model/transformer.py) and
# [`Qwen3.forward`](../src/pureqwen/model/transformer.py).

# %%
stream = [model.model.embed_tokens(ids)]  # (S, D)
for block in model.model.layers:
    stream.append(block(stream[-1], angles, CausalAttend()))  # (S, D)
logits = model.lm_head(model.model.norm(stream[-1]))  # (S, V)
print("ids", tuple(ids.shape), "-> logits", tuple(logits.shape))
print("the package: ", agree(logits, model(ids)))
print("transformers:", agree(logits, peer(ids[None]).logits[0]))
assert (model.lm_head.weight is model.model.embed_tokens.weight) == config.tie_word_embeddings

# %% [markdown]
# Since every block only adds to the stream, the head can read it at any depth. Each row of the picture is
# the stream after one more block, each column a position of the answer. In a cell stands the token that the
# head would predict there; the greener it is, the likelier the head finds the token that really came. At
# the bottom, before any block, a tied head mostly finds the token that stands there already. The blocks
# turn it into the one that follows.

# %%
last = slice(-min(14, len(answer.token_ids)) - 1, -1)  # the positions that predict the last tokens
read = torch.stack([model.logits(model.model.norm(x[last])) for x in stream])  # (blocks + 1, n, V)
coming = ids[last.start + 1 :]  # (n,)
pictures.lens(
    read.softmax(-1)[:, torch.arange(len(coming)), coming].numpy(),
    guesses=[[tokenizer.decode([id]) for id in row] for row in read.argmax(-1).tolist()],
    tokens=[tokenizer.decode([id]) for id in coming.tolist()],
)

# %% [markdown]
# Where the numbers are: every kind of tensor, how many of it there are, and the operations for one token (a
# multiplication and an addition for each weight that the token meets). The package:
# [`ledger`](../src/pureqwen/explain/ledger.py); `pureqwen info` prints it for any model.

# %%
book = ledger(config)
print("| tensor (* is any block) | shape | how many | parameters | operations per token |")
print("|---|---|---:|---:|---:|")
for part in book.parts:
    print(f"| {part.path} | {part.shape} | {part.count} | {part.parameters:,} | {part.flops:,} |")
print(f"| **all** | | | **{book.parameters:,}** | **{book.flops:,}** |")
assert book.parameters == sum(p.numel() for p in model.parameters()) == config.num_parameters()

# %% [markdown]
# **Side by side.** GPT-2 in its smallest size against Qwen3 in its smallest, both from their
# configurations:

# %%
new, old = ModelConfig.preset("Qwen3-0.6B"), transformers.GPT2Config()
oldest, newest = f"D / H = {old.n_embd // old.n_head}", f"{new.head_dim}, and D / H is not asked"
heads, shared = new.num_attention_heads, new.num_key_value_heads
rows = (
    ("vocabulary", f"{old.vocab_size:,}", f"{new.vocab_size:,} rows", "more languages, more code"),
    ("numbers", "several digits may be one token", "a token for each digit", "arithmetic can be learned"),
    ("position", "a learned vector, added once", "RoPE in each attention", "distances, and longer texts"),
    ("context", f"{old.n_positions:,}", f"{new.max_position_embeddings:,}", "YaRN stretches it further"),
    ("norm", "LayerNorm", "RMSNorm", "less work, same quality"),
    ("heads", f"{old.n_head}, each with its own keys", f"{heads} over {shared} keys", "a smaller cache"),
    ("head width", oldest, newest, "a size of its own, in the configuration"),
    ("on q and k", "nothing", "RMSNorm", "scores stay bounded, training stays stable"),
    ("MLP", "GELU, 2 matrices, F = 4 D", "SwiGLU, 3 matrices, F = 3 D", "learns better at equal size"),
    ("biases", "in every layer and norm", "none", "not needed"),
    ("dropout", "0.1 in training", "none", "hardly any text is seen twice"),
    ("head", "tied to the embedding", "tied up to 4B", "in a large model it is a small part"),
    ("skeleton", "norm, attention, add; norm, MLP, add", "the same", ""),
)
print("| | GPT-2 | Qwen3-0.6B | why |\n|---|---|---|---|")
for row in rows:
    print("|", " | ".join(row), "|")
assert not new.attention_bias and new.intermediate_size == 3 * new.hidden_size
assert new.head_dim != new.hidden_size // heads and old.resid_pdrop == 0.1
assert [ModelConfig.preset(f"Qwen3-{size}").tie_word_embeddings for size in ("4B", "8B")] == [True, False]

# %% [markdown]
# ## 8. Loading weights
#
# A checkpoint is a folder: `config.json` (the shape), `tokenizer.json`, and `model.safetensors` (the
# weights). The last is as simple as a format can be: eight bytes say how long the header is, the header is
# JSON (name, dtype, shape, where), and then the numbers follow. Nothing in it can be executed, unlike in a
# pickle.
#
# The package: [`load_model`](../src/pureqwen/weights/load.py) builds the model without memory (on the
# *meta* device), compares all names and shapes, and only then lets each module pull its tensors from a
# memory map ([`Reader.parameter`](../src/pureqwen/weights/load.py)): where the dtypes agree a parameter
# *is* the map, and loading copies nothing.

# %%
raw = (folder / "model.safetensors").read_bytes()
length = int.from_bytes(raw[:8], "little")
header = json.loads(raw[8 : 8 + length])
header.pop("__metadata__", None)
name = "model.layers.0.mlp.up_proj.weight"
entry = header[name]
print(name, entry)

begin, stop = (8 + length + offset for offset in entry["data_offsets"])
dtype = {"F32": torch.float32, "BF16": torch.bfloat16}[entry["dtype"]]
by_hand = torch.frombuffer(bytearray(raw[begin:stop]), dtype=dtype).view(entry["shape"]).float()
assert torch.equal(by_hand, model.get_parameter(name))

with torch.device("meta"):
    hollow = Qwen3(config)  # shapes, no memory
assert {name for name, _ in hollow.named_parameters()} == set(header)
print(f"{len(header)} tensors in the file, and each is one parameter of the model")


def bits(model: Qwen3) -> float:
    """Bits of surprise for each token of the answer: minus log2 of the probability it was given."""
    scores = model(ids).log_softmax(-1)[len(prompt) - 1 : -1]
    return -scores.gather(-1, ids[len(prompt) :, None]).mean().item() / math.log(2)


print(f"bits of surprise per token: random weights {bits(Qwen3(config)):.2f}, the file's {bits(model):.2f}")
print(f"(a blind guess among {config.vocab_size} tokens: {math.log2(config.vocab_size):.2f})")
try:
    load_model(folder, dataclasses.replace(config, num_hidden_layers=config.num_hidden_layers + 1))
except WeightError as error:
    print("with one block too many:", str(error).split(": ")[1])
with tempfile.TemporaryDirectory() as copied:
    qwen.save(copied)  # and transformers reads what we write
    again = transformers.Qwen3ForCausalLM.from_pretrained(copied, dtype=torch.float32)
    assert torch.equal(again(ids[None]).logits, peer(ids[None]).logits)

# %% [markdown]
# ## 9. Generation
#
# The logits at the last position say what may stand next. Choose a token, append it, run the model again:
# that is all of generation. Greedy means: always the likeliest. It stops at a token that means "end".
#
# The package: [`greedy`](../src/pureqwen/generate/loop.py) is this loop;
# [`decode`](../src/pureqwen/generate/loop.py) is the same for many texts at once, each with its own
# settings.

# %%
written = torch.tensor(prompt)
while len(written) < qwen.context:
    following = model(written)[-1].argmax()  # (V,) -> one id
    written = torch.cat((written, following[None]))
    if following.item() in qwen.eos_ids:
        break

count = len(written) - len(prompt)
assert written.tolist() == ids.tolist()  # what qwen.chat said
assert torch.equal(written, greedy(model, torch.tensor(prompt), max_tokens=count))
theirs = peer.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=count)
assert torch.equal(written, theirs[0])
print(f"{count} tokens, the same by hand, by greedy(), by chat() and by transformers")

# %% [markdown]
# Larger models write better when they do not always take the likeliest token, but draw one by its
# probability. *Temperature* divides the logits first: below 1 the likely becomes likelier, above 1 the
# unlikely does. *top_p* then cuts off the tail: it keeps the likeliest tokens that together reach the share
# p.
#
# The package: [`Sampler.choose`](../src/pureqwen/generate/sampling.py). Its draw depends on the seed and
# the position alone: the same seed gives the same answer, whatever else the machine computes.

# %%
HARD = "What is 347 * 86?"
blurted = qwen.chat(HARD, thinking=False)  # without thinking: the pocket has to guess digits
text = torch.tensor([*prompt_of(HARD, enable_thinking=False), *blurted.token_ids])
guessing = model(text)[-len(blurted.token_ids) - 1 : -1]  # (n, V)
entropy = -(guessing.softmax(-1) * guessing.log_softmax(-1)).sum(-1)
place = (entropy - 1).abs().argmin().item()  # a place where it is torn between a few
unsure = guessing[place]
print(f"{blurted.content!r}, torn after {tokenizer.decode(blurted.token_ids[:place])!r}")

best = unsure.topk(8).indices
pictures.temperatures(
    [tokenizer.decode([id]) for id in best.tolist()],
    {f"temperature {t}": (unsure / t).softmax(-1)[best].tolist() for t in (0.5, 1.0, 2.0)},
)

params = SamplingParams(temperature=0.7, top_p=0.9).over(NEUTRAL)
sampler = Sampler(params, prompt=(), seed=1, num_tokens=None, end_ids=())
kept, scores = sampler.narrow(unsure / 0.7)
ranked, order = (unsure / 0.7).softmax(-1).sort(descending=True)
naive = order[ranked.cumsum(-1) - ranked < 0.9]  # until the share is reached
assert set(kept.tolist()) == set(naive.tolist())
draws = [sampler.choose(unsure, position=n, count=0) for n in range(2000)]
assert draws == [sampler.choose(unsure, position=n, count=0) for n in range(2000)]
print("token: probability, share of 2,000 draws")
likely = dict(zip(kept.tolist(), scores.softmax(-1).tolist(), strict=True))
for id, p in sorted(likely.items(), key=lambda pair: -pair[1])[:5]:
    print(f"{tokenizer.decode([id])!r:>5}: {p:.3f}, {draws.count(id) / 2000:.3f}")
    assert abs(p - draws.count(id) / 2000) < 0.05

# %% [markdown]
# ## 10. KV cache
#
# The loop above computes the whole text again for each new token. But no position ever looks ahead, so
# nothing that comes later changes what earlier positions computed. Of the earlier positions, attention
# needs only keys and values. Keep those, and each step computes one position instead of all.
#
# A cache is therefore an attend that remembers. The shortest one:


# %%
class Growing:
    """Appends the new keys and values to the old; each new query sees everything up to its own place."""

    def __init__(self) -> None:
        self.k = self.v = torch.empty(0, Hkv, Dh)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.k, self.v = torch.cat((self.k, k)), torch.cat((self.v, v))  # (seen, Hkv, Dh)
        seen, new = len(self.k), len(q)
        mask = torch.ones(1, new, seen, dtype=torch.bool).tril(seen - new)
        return scaled_dot_product(q, self.k, self.v, mask=mask)


growing = [Growing() for _ in model.model.layers]
steps = [model(ids[n : n + 1], positions[n : n + 1], growing) for n in range(S)]  # one token at a time
print("one at a time:  ", agree(torch.cat(steps), model(ids)))

cache = StaticCache(config, limit=S)
read = model(ids[None, : len(prompt)], cache.begin([(0, len(prompt))]), cache.attends)  # the prompt at once
steps = [model(ids[None, n : n + 1], cache.begin([(n, 1)]), cache.attends) for n in range(len(prompt), S)]
print("the package's:  ", agree(torch.cat((read, *steps), dim=1)[0], model(ids)))

per_token = sum(t.nbytes for attend in growing for t in (attend.k, attend.v)) // S
layers = config.num_hidden_layers
assert per_token == ledger(config, dtype="float32").cache_bytes == 2 * layers * Hkv * Dh * 4
print(f"bytes per token: 2 (k and v) * {layers} blocks * {Hkv} heads * {Dh} * 4 = {per_token:,}")

# %% [markdown]
# `Growing` copies everything at every step. The package's [`StaticCache`](../src/pureqwen/cache/static.py)
# reserves room and writes in place ([`StaticAttend.__call__`](../src/pureqwen/cache/static.py)), so that
# the tensors keep their addresses and a batch of texts of different lengths fits into one rectangle.
# Position p of a text lies in slot p, and a query sees the slots up to its own. This one rule hides three
# things: what comes later, the filling of shorter texts, and what an earlier text left behind.
#
# The cache is also what makes long texts expensive. Here grouped queries pay: without them the cache would
# be H / Hkv times as large.

# %%
prefill, last_step = 8, 24
grid = torch.zeros(last_step - prefill + 1, last_step)
without, beside = grid.clone(), grid.clone()
for step, upto in enumerate(range(prefill, last_step + 1)):
    without[step, :upto] = 1
    beside[step, :upto] = 2
    beside[step, upto - 1 if step else 0 : upto] = 1
sizes = {}
for name in ("Qwen3-0.6B", "Qwen3-8B", "Qwen3-32B", "Qwen3-30B-A3B"):
    shape = ModelConfig.preset(name)
    shared = ledger(shape, dtype="bfloat16").cache_bytes * 32_768
    sizes[name] = (shared, shared * shape.num_attention_heads // shape.num_key_value_heads)
pictures.cache(without.numpy(), beside.numpy(), sizes=sizes, context=32_768)

# %% [markdown]
# ## 11. Mixture of experts
#
# A larger MLP knows more, and costs more for each token. A *mixture of experts* breaks that link: E small
# MLPs instead of a large one, and a *router*, one matrix from D to E, that chooses K of them for each
# token. The softmax of its scores says who is chosen and how the chosen are weighted. Qwen3-30B-A3B has 128
# experts of which 8 are chosen: 30 billion parameters, of which a token meets 3. GPT-2 has nothing of the
# kind.
#
# The package: [`MoE.forward`](../src/pureqwen/model/moe.py), [`MoE.route`](../src/pureqwen/model/moe.py),
# and [`Experts.forward`](../src/pureqwen/model/moe.py), which sorts the tokens by expert, so that each
# expert is one product over its own tokens and idle ones are not touched.
# [`naive_experts`](../src/pureqwen/model/moe.py) is the definition. One line of
# [`Block.__init__`](../src/pureqwen/model/transformer.py) decides which layers are MoE.
#
# The experts below have random weights: the routing is real, what it means is not. A trained router learns
# what to send where, and an extra term of the training loss keeps it from sending everything to one expert.

# %%
E, K = 8, 2
sparse = dataclasses.replace(
    config,
    model_type="qwen3_moe",
    num_experts=E,
    num_experts_per_tok=K,
    moe_intermediate_size=config.intermediate_size // 4,
    norm_topk_prob=True,
    initializer_range=0.1,
)
torch.manual_seed(1)
moe = Qwen3(sparse).model.layers[0].mlp
assert isinstance(moe, MoE)
h = layer.post_attention_layernorm(stream[1])  # (S, D): real activations of the pocket
scores = moe.gate(h)  # (S, E)
weights, who = moe.route(scores)  # (S, K) each
print("h", tuple(h.shape), "-> scores", tuple(scores.shape), "-> weights and experts", tuple(weights.shape))
for n in range(3):
    shares = " + ".join(f"{w:.2f} of expert {e}" for w, e in zip(weights[n], who[n], strict=True))
    print(f"  {tokens[n]!r}: {shares}")

p = scores.softmax(-1)
best, numbers = p.sort(-1, descending=True)
assert torch.equal(who, numbers[:, :K])
agree(weights, best[:, :K] / best[:, :K].sum(-1, keepdim=True))
print("every expert, every token:", agree(moe(h), naive_experts(moe.experts, h, weights, who)))

settings = transformers.Qwen3MoeConfig.from_dict(sparse.to_dict(), experts_implementation="eager")
theirs = Qwen3MoeSparseMoeBlock(settings)
own = moe.experts
theirs.load_state_dict(
    {
        "gate.weight": moe.gate.weight,
        "experts.gate_up_proj": torch.cat((own.gate_proj, own.up_proj), dim=1),
        "experts.down_proj": own.down_proj,
    }
)
print("transformers:             ", agree(moe(h), theirs(h[None])[0]))

few = min(S, 30)
pictures.router(torch.zeros(S, E).scatter(-1, who, weights).T[:, :few].numpy(), tokens[:few])

# %%
print("| model | parameters | met by a token | share |\n|---|---:|---:|---:|")
for name in ("Qwen3-8B", "Qwen3-30B-A3B", "Qwen3-235B-A22B"):
    shape = ModelConfig.preset(name)
    total, active = shape.num_parameters(), shape.num_active_parameters()
    print(f"| {name} | {total / 1e9:.1f} B | {active / 1e9:.1f} B | {active / total:.0%} |")

# %% [markdown]
# ## 12. Thinking
#
# A model computes the same amount for every token: its blocks, once through. A question that needs more
# steps than there are blocks can't be answered in one token. But a model that *writes* its steps can read
# them again: the text is its scratch paper. That is all that "thinking" is. Qwen3 writes it between
# `<think>` and `</think>`, two control tokens. There is no other mechanism, no other weights: thinking is
# turned off by a prompt in which the thought is already there, and empty.
#
# The package: [`Reply.push`](../src/pureqwen/chat/answer/reply.py) parts thought from answer while it
# streams, [`split_reasoning`](../src/pureqwen/chat/answer/reply.py) does so for a whole text.

# %%
off = prompt_of(QUESTION, enable_thinking=False)
assert off[: len(prompt)] == prompt
print("thinking turned off adds to the prompt:", repr(tokenizer.decode(off[len(prompt) :])))
assert pureqwen.split_reasoning(answer.text) == (answer.reasoning, answer.content)
print("thought:", answer.usage.reasoning_tokens, "tokens; answer:", answer.content)

# %% [markdown]
# How surprised is the model by the *right* answer? Surprise is minus log2 of the probability that a token
# was given: 0 bits when the model was sure, 1 bit when it was a coin toss. The package:
# [`surprise`](../src/pureqwen/explain/surprise.py). With its steps on the paper the answer follows. Without
# them the pocket must guess the digits.

# %%
LONGER = "What is 4618 + 2953?"
solved = qwen.chat(LONGER)
close = solved.token_ids.index(tokenizer.token_id("</think>")) + 1
while tokenizer.decode([solved.token_ids[close]]).isspace():
    close += 1
thought, said = solved.token_ids[:close], solved.token_ids[close:]


def surprised(before: list[int], after: list[int]) -> tuple[list[str], list[float]]:
    """The tokens of `after`, and the bits of surprise of each when it follows `before`."""
    scores = surprise(model, before + after, start=len(before), text_of=lambda id: tokenizer.decode([id]))
    return [score.text for score in scores], [-score.logprob / math.log(2) for score in scores]


mean = statistics.mean(surprised(prompt, answer.token_ids)[1])
assert abs(mean - bits(model)) < 1e-4  # by hand, in step 8
pictures.surprise(
    {
        "With a thought": surprised(prompt_of(LONGER), thought + said),
        "The same answer without one": surprised(prompt_of(LONGER, enable_thinking=False), said),
    }
)

# %% [markdown]
# And over sixteen random products, all at once, greedily. A *thinking budget* cuts the thought off after so
# many tokens, with a sentence that the model did not choose
# ([`Row.close_thinking`](../src/pureqwen/generate/row.py)).

# %%
numbers = random.Random(0)
pairs = [(numbers.randrange(100, 1000), numbers.randrange(10, 100)) for _ in range(16)]
asked = [[{"role": "user", "content": f"What is {a} * {b}?"}] for a, b in pairs]
right = {}
for label, how in (
    ("no thinking", {"thinking": False}),
    ("24 tokens", {"thinking_budget": 24}),
    ("all it wants", {}),
):
    results = qwen.chat(asked, max_tokens=1000, **how)
    right[label] = sum(str(a * b) in (r.content or "") for (a, b), r in zip(pairs, results, strict=True))
    length = sum(len(r.token_ids) for r in results) / len(results)
    print(f"{label:12}  {right[label]:2} of {len(pairs)} products right, {length:.0f} tokens an answer")
assert right["all it wants"] >= right["no thinking"]

# %% [markdown]
# ## The whole of it, measured
#
# The same text continued in eight ways: with and without cache, as PyTorch runs it and compiled by
# `torch.compile`, one text and eight at once. All give the same tokens. What to see:
#
# - A cache turns "all positions, at each step" into one. The longer the text, the larger the difference.
# - Eight texts cost little more than one where the machine waits (for the Python interpreter in a small
#   model, for the weights to arrive from memory in a large one), and eight times as much where it computes.
# - Compiling fuses small operations into few. Blocks are compiled one by one; all share one program, since
#   an attend holds tensors only. How much it gains depends on the machine; its cost comes once.


# %%
def resume(model: Qwen3, text: Tensor, count: int, *, cached: bool) -> tuple[Tensor, float, int]:
    """text (B, S) and `count` tokens more: the longer text, seconds a step (median), bytes of the cache."""
    B, S = text.shape
    cache = StaticCache(config, batch=B, limit=S + count)
    new, done, seconds = text, 0, []  # what is to be computed, how much lies in the cache
    for step in range(count):
        began = time.perf_counter()
        if cached:
            runner = model if step else eager  # the prompt is read by the plain one: one program less
            where = cache.begin([(done, new.shape[1])] * B)
            logits = runner(new, where, cache.attends, keep=(slice(None), -1))  # (B, V)
            done += new.shape[1]
        else:
            logits = model(text, keep=(slice(None), -1))
        new = logits.argmax(-1, keepdim=True)  # (B, 1)
        text = torch.cat((text, new), dim=1)
        seconds.append(time.perf_counter() - began)
    held = sum(t.nbytes for attend in cache.attends for t in (attend.k, attend.v)) if cached else 0
    return text, statistics.median(seconds[1:]), held


eager, compiled = model, copy.deepcopy(model)
for n, block in enumerate(compiled.model.layers):
    compiled.model.layers[n] = torch.compile(block, dynamic=True, fullgraph=True)

text = [*prompt_of(HARD), *qwen.chat(HARD).token_ids]
begun = torch.tensor(text[: min(128, len(text) * 3 // 4)])
FEW, MANY = 12, 48  # tokens: without and with a cache
expected = greedy(model, begun, max_tokens=FEW)


@torch.inference_mode()
def measured(runner: Qwen3, B: int, *, cached: bool) -> list[str]:
    """The cells of one way: tokens a second, positions computed a step, cache, seconds of the first call."""
    text, count = begun.expand(B, -1), MANY if cached else FEW
    start = time.perf_counter()
    try:
        resume(runner, text, 3, cached=cached)
    except InductorError as error:  # no C++ compiler on this machine
        assert runner is compiled
        return [f"not here: {type(error).__name__}", "", "", ""]
    first = time.perf_counter() - start
    came, seconds, held = resume(runner, text, count, cached=cached)
    assert (came[:, : len(expected)] == expected).all()
    work = B if cached else B * (len(begun) + count // 2)
    return [f"{B / seconds:,.0f}", f"{work:,}", f"{held / 2**20:.1f}", f"{first:.1f}"]


print("| texts | cache | run | tokens a second | positions a step | cache, MiB | first call, s |")
print("|---:|---|---|---:|---:|---:|---:|")
for B, cached, runner in product((1, 8), (False, True), (eager, compiled)):
    names = ["yes" if cached else "no", "eager" if runner is eager else "compiled"]
    print("|", " | ".join([str(B), *names, *measured(runner, B, cached=cached)]), "|")
weights = ledger(config, dtype="float32").weight_bytes / 2**20
print(f"\nThe weights take {weights:.1f} MiB in float32. The text has {len(begun)} tokens.")
print(f"torch {torch.__version__.split('+')[0]} on a CPU, {torch.get_num_threads()} thread(s)")

# %% [markdown]
# ## Where each block is
#
# | block | in a sentence | code |
# |---|---|---|
# | tokens | text to integers, by merges | [`Tokenizer`](../src/pureqwen/tokenizer.py) |
# | chat template | messages to one text | [`ChatTemplate`](../src/pureqwen/chat/prompt/template.py) |
# | RMSNorm | vectors to one length, times a weight | [`RMSNorm`](../src/pureqwen/model/layers.py) |
# | RoPE | positions turn queries and keys | [`Rope`](../src/pureqwen/model/rope.py) |
# | attention | positions look back and mix values | [`Attention`](../src/pureqwen/model/attention.py) |
# | SwiGLU | each position by itself, through gated units | [`MLP`](../src/pureqwen/model/layers.py) |
# | block | norm, attention, add; norm, MLP, add | [`Block`](../src/pureqwen/model/transformer.py) |
# | model | embedding, blocks, norm, head | [`Qwen3`](../src/pureqwen/model/transformer.py) |
# | weights | named tensors, mapped from a file | [`load_model`](../src/pureqwen/weights/load.py) |
# | generation | logits, choose, append, again | [`decode`](../src/pureqwen/generate/loop.py) |
# | cache | an attend that remembers keys and values | [`StaticCache`](../src/pureqwen/cache/static.py) |
# | experts | a router sends each token through K of E MLPs | [`MoE`](../src/pureqwen/model/moe.py) |
# | thinking | steps written down, to be read again | [`Reply`](../src/pureqwen/chat/answer/reply.py) |
#
# Next: [change a block](change-a-block.md) and see what happens.
