# ruff: noqa: E501  (tables)
"""What the pocket knows about the architecture it is made of: true, short, and phrased in many ways.

Each fact: the names one may use for its subject, and answers. "what" answers What is X / explain X; "why"
answers Why does Qwen3 use X.
"""

import random
from dataclasses import dataclass

from recipes.pocket.problem import Problem, Task
from recipes.pocket.wording import phrased


@dataclass(frozen=True)
class Fact:
    """A subject by its names, what it is, and (where one asks for it) why it is there."""

    names: tuple[str, ...]
    what: str
    why: str = ""


FACTS = (
    Fact(("RMSNorm", "the norm", "root mean square norm", "RMS normalization"),
         "RMSNorm divides a vector by its root mean square and multiplies it by a learned weight. "
         "It subtracts no mean and adds no bias.",
         "RMSNorm keeps activations at one scale, so that deep models train stably, and it is cheaper than LayerNorm."),
    Fact(("RoPE", "rotary position embedding", "rotary embeddings", "rotary positions"),
         "RoPE rotates pairs of query and key values by an angle that grows with the position. "
         "The score of a query and a key then depends on their distance.",
         "RoPE tells attention how far apart two tokens are, without any learned position table."),
    Fact(("GQA", "grouped-query attention", "grouped query attention"),
         "In grouped-query attention several query heads share one key and value head.",
         "GQA makes the KV cache smaller, so that decoding reads less memory, at nearly the same quality."),
    Fact(("QK-norm", "QK norm", "query-key norm", "qk normalization"),
         "QK-norm is an RMSNorm over each head of the queries and keys, applied before RoPE.",
         "QK-norm keeps attention scores in range, so that training stays stable. It replaced the QKV bias of Qwen2."),
    Fact(("SwiGLU", "the feed-forward block", "the MLP", "swiglu"),
         "SwiGLU is the feed-forward block: down(silu(gate(x)) * up(x)), with three matrices.",
         "SwiGLU lets one projection gate another, and works better than a plain MLP of the same size."),
    Fact(("SiLU", "the activation function", "swish"),
         "SiLU is x * sigmoid(x), a smooth relative of ReLU. SwiGLU uses it in its gate."),
    Fact(("MoE", "mixture of experts", "a mixture of experts", "mixture-of-experts"),
         "In a mixture of experts a router picks a few experts, small feed-forward blocks, for each token. "
         "Qwen3-30B-A3B has 128 experts and uses 8 for each token.",
         "MoE gives a model many parameters, while each token pays for only a few of them."),
    Fact(("the router", "a router", "expert routing", "the gate of an MoE"),
         "The router is a linear layer that scores all experts for a token. "
         "Softmax, then the top 8 are taken and their weights made to sum to one."),
    Fact(("attention", "self-attention", "causal attention"),
         "Attention lets each token look at the tokens before it: "
         "softmax of queries times keys gives weights, and the output is the weighted sum of values.",
         "Attention moves information between tokens. All other parts work on each token alone."),
    Fact(("the KV cache", "KV cache", "a key-value cache", "the cache"),
         "The KV cache keeps the keys and values of past tokens, so that each new token computes only its own.",
         "The KV cache makes decoding fast: without it each step would compute the whole text again."),
    Fact(("a token", "tokens", "a tokenizer", "the tokenizer", "BPE", "byte-level BPE"),
         "A tokenizer cuts text into tokens, pieces with numbers. Qwen3 uses byte-level BPE, and each digit is a token."),
    Fact(("an embedding", "the embedding", "embeddings", "token embedding"),
         "The embedding is a table with one vector for each token. A model starts by looking up its tokens there."),
    Fact(("tied embeddings", "weight tying", "the tied head", "lm_head"),
         "The head turns the last hidden state into a score for each token. "
         "With tied embeddings it uses the embedding table itself. Small Qwen3 models do."),
    Fact(("a transformer block", "a decoder layer", "a Qwen3 block", "a block"),
         "A block is x + attention(norm(x)), then x + MLP(norm(x)). A model stacks many of them."),
    Fact(("a residual connection", "residual connections", "the residual stream"),
         "A residual connection adds a layer's output to its input. Each layer only has to learn a change."),
    Fact(("the causal mask", "causal masking", "a causal mask"),
         "The causal mask hides later tokens, so that each position predicts the next token from the past only."),
    Fact(("softmax",),
         "Softmax turns scores into positive weights that sum to one: exp of each score over the sum of all."),
    Fact(("logits", "a logit"),
         "Logits are the scores a model gives to every token of its vocabulary. Softmax turns them into probabilities."),
    Fact(("YaRN", "yarn scaling"),
         "YaRN stretches RoPE's slow frequencies, so that a model reads texts longer than it was trained on.",
         "Qwen3 uses YaRN to go from 32,768 to 131,072 tokens. It is off unless the text is long."),
    Fact(("thinking mode", "thinking", "the think block", "reasoning mode"),
         "In thinking mode the model first writes its steps between <think> and </think>, then answers.",
         "Thinking gives a model room to work step by step. I count and calculate far better with it."),
    Fact(("a thinking budget", "the thinking budget"),
         "A thinking budget is a limit on the tokens of the thinking. At the limit it is closed and the answer follows."),
    Fact(("a chat template", "the chat template", "ChatML"),
         "A chat template turns messages into one text. Qwen3 writes a role, the content and an end token for each turn."),
    Fact(("temperature", "sampling temperature"),
         "Temperature divides the logits before softmax. Zero means always the best token, higher means more variety."),
    Fact(("top-p", "top_p", "nucleus sampling"),
         "Top-p keeps the most likely tokens whose probabilities sum to p, and samples among them."),
    Fact(("top-k", "top_k"),
         "Top-k keeps the k most likely tokens and samples among them."),
    Fact(("greedy decoding", "greedy search"),
         "Greedy decoding always takes the most likely token, so that the same prompt gives the same answer."),
    Fact(("bfloat16", "bf16"),
         "bfloat16 is a 16-bit float with the range of float32 and fewer digits. Qwen3's weights are stored in it."),
    Fact(("safetensors", "a safetensors file"),
         "safetensors is a file format for weights: a small header and raw bytes. Loading it runs no code."),
    Fact(("head_dim", "the head dimension", "head dimension"),
         "head_dim is the size of one attention head. In Qwen3 it is 128, and not hidden_size / num_heads."),
    Fact(("AdamW", "adamw"),
         "AdamW is an optimizer. It scales each weight's step by past gradients and decays weights separately."),
    Fact(("Muon", "the optimizer", "muon"),
         "Muon is the optimizer that trained my matrices. It makes a step equally large in all directions of a matrix."),
    Fact(("cross entropy", "the training loss", "cross-entropy"),
         "Cross entropy is minus the log of the probability that the model gave to the right token."),
    Fact(("tool calling", "function calling", "a tool call"),
         "In a tool call the model writes a function name and arguments as JSON, and the program runs it."),
    Fact(("speculative decoding",),
         "In speculative decoding a small model guesses tokens and the large one checks them all at once."),
    Fact(("a transformer", "the transformer", "transformers"),
         "A transformer is a stack of blocks of attention and feed-forward layers. Language models are made of it."),
    Fact(("a language model", "an LLM", "language models", "LLMs"),
         "A language model predicts the next token of a text. Repeated, that writes an answer."),
    Fact(("pureqwen", "this package", "this project"),
         "pureqwen is the Qwen3 family written from scratch in pure PyTorch, to be read, changed and used every day.",
         "pureqwen is small enough to read in an evening, and still loads the real checkpoints."),
    Fact(("PyTorch", "pytorch"),
         "PyTorch is a library for tensors and gradients in Python. pureqwen is written in it."),
    Fact(("Qwen3", "Qwen 3", "the Qwen3 family", "Qwen"),
         "Qwen3 is a family of open language models by the Qwen team at Alibaba: dense from 0.6B to 32B parameters, "
         "and mixtures of experts of 30B and 235B."),
)  # fmt: skip

_WHAT = phrased(
    ("tell me what {x} is", "explain {x}", "describe {x}", "define {x}", "tell me about {x}", "teach me {x}", "explain how {x} works", "explain {x} briefly", "say what {x} is"),
    ("what is {x}", "what's {x}", "how does {x} work", "what does {x} mean", "what do you know about {x}", "what is meant by {x}", "what exactly is {x}", "what is {x} in Qwen3", "{x}", "what is {x} in a language model"),
)  # fmt: skip
_WHY = phrased(
    ("tell me why {x} is used", "explain why {x} is used", "tell me why Qwen3 uses {x}", "explain why we need {x}"),
    ("why does Qwen3 use {x}", "what is {x} good for", "why is {x} used", "why do we need {x}", "what is the point of {x}", "what is the advantage of {x}", "why do models have {x}", "why {x}", "why use {x}", "what do I need {x} for"),
)  # fmt: skip

QUESTIONS = (
    (("How many experts does Qwen3 have?", "How many experts does Qwen3-30B-A3B have?",
      "How many experts are in Qwen3's MoE models?"),
     "Qwen3's MoE models have 128 experts in each layer, and 8 of them are used for each token."),
    (("What are the sizes of Qwen3?", "Which Qwen3 models are there?", "What sizes does Qwen3 come in?",
      "List the Qwen3 models."),
     "Dense: 0.6B, 1.7B, 4B, 8B, 14B and 32B. Mixtures of experts: 30B-A3B and 235B-A22B."),
    (("What does A3B mean?", "What does A22B mean?", "What is A3B in Qwen3-30B-A3B?"),
     "It is the number of active parameters: A3B means that about 3 billion are used for each token."),
    (("How does Qwen3 differ from GPT-2?", "What is the difference between Qwen3 and GPT-2?", "Qwen3 vs GPT-2"),
     "Qwen3 has RMSNorm, RoPE, grouped-query attention with QK-norm and SwiGLU, and no biases. "
     "GPT-2 has LayerNorm, learned positions, plain attention and GELU."),
    (("How does Qwen3 differ from Qwen2?", "What is new in Qwen3?", "Qwen3 vs Qwen2.5"),
     "Qwen3 adds QK-norm, drops the bias of the query, key and value projections, and can think or answer directly."),
    (("How is Qwen3 built?", "What is Qwen3 made of?", "Describe the architecture of Qwen3.",
      "What is the architecture of Qwen3?"),
     "An embedding, then blocks of grouped-query attention with QK-norm and RoPE and a SwiGLU or MoE, "
     "with RMSNorm before each, then a last norm and a head."),
    (("How do I load a real checkpoint?", "How do I use Qwen3-0.6B?", "How can I run a bigger model?",
      "How do I load another model?"),
     "Run pureqwen chat --model Qwen/Qwen3-0.6B, or in Python: pureqwen.load('Qwen/Qwen3-0.6B')."),
    (("How do I use pureqwen from Python?", "How do I use you from Python?", "Show me the Python API."),
     "import pureqwen; qwen = pureqwen.load(); print(qwen.chat('What is 347 * 86?').content)"),
    (("Where is attention in the code?", "Where do I find the attention code?"),
     "In src/pureqwen/model/attention.py."),
    (("Where is the MoE in the code?", "Where do I find the experts?", "Where is the router in the code?"),
     "In src/pureqwen/model/moe.py."),
    (("Where is RoPE in the code?", "Where do I find RoPE?"), "In src/pureqwen/model/rope.py."),
    (("Where is sampling in the code?", "Where do I find the sampler?"), "In src/pureqwen/generate/sampling.py."),
)  # fmt: skip

_HASTE = (
    "{x}",
    "Hi! {x}",
    "Please tell me: {x}",
    "{x} I want to know.",
    "A question: {x}",
    "Do you know: {x}",
    "I'd like to know: {x}",
    "Tell me: {x}",
)


def _fact(rng: random.Random) -> Problem:
    if rng.random() < 0.25:
        questions, answer = rng.choice(QUESTIONS)
        return Problem(
            (*_HASTE, "My question is: {x}"),
            "A question about Qwen3 and pureqwen.",
            answer,
            {"x": rng.choice(questions)},
        )
    fact = rng.choice(FACTS)
    why = bool(fact.why) and rng.random() < 0.4
    steps = f"{'Why' if why else 'What'}: {fact.names[0]}."
    return Problem(
        _WHY if why else _WHAT, steps, fact.why if why else fact.what, {"x": rng.choice(fact.names)}
    )


TASKS = (Task("facts on Qwen3 and pureqwen", 8, _fact, direct=0.35),)
