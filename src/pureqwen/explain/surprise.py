"""Surprise: how unlikely each token of a text was for the model that reads it, and what it expected instead.

    surprise(t) = -log p(token t | tokens before it)    in bits (log2): 0 is certain, 1 is a coin's toss,
                                                        17 is one of Qwen3's 151,936 tokens at random

Shannon 1948, "A Mathematical Theory of Communication", section 6; the mean over a text is its cross entropy.
p is the softmax of the raw logits, before temperature, top-k or penalties: what the model knew, not what it
drew from.

An answer that has just been generated brings these numbers along (`SamplingParams.logprobs`). `surprise` is
for any other text: one forward over it, in pieces, so that neither the activations nor the logits of all
positions are held at once. `import pureqwen.explain` does not import this module, which needs torch.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pureqwen.cache import StaticCache
from pureqwen.generate import Logprob
from pureqwen.model import Qwen3

CHUNK = 512  # tokens of one forward
ROWS = 64  # rows of logits at once: 64 x 151,936 float32 are 39 MB


@torch.inference_mode()
def surprise(
    model: Qwen3,
    ids: Sequence[int],
    *,
    start: int = 1,
    top: int = 5,
    text_of: Callable[[int], str] = str,
) -> list[Logprob]:
    """Log-probabilities of the tokens ids[start:], each with the `top` likeliest in its place.

    `text_of` is the text of one token. ValueError where `start` leaves no token before the first one.
    """
    if not 1 <= start <= len(ids):
        raise ValueError(
            f"start is {start}: it must be 1 to {len(ids)}, for the first token follows no other"
        )
    scores: list[Logprob] = []
    for place, hidden in hidden_states(model, ids, first=start - 1):
        for piece in range(0, len(hidden), ROWS):
            logprobs = model.logits(hidden[piece : piece + ROWS]).log_softmax(-1)  # (rows, V)
            chosen = ids[place + piece + 1 : place + piece + 1 + len(logprobs)]
            scores += [
                score(row, token, top, text_of) for row, token in zip(logprobs, chosen, strict=False)
            ]  # the last position predicts what is not there
    return scores


def hidden_states(model: Qwen3, ids: Sequence[int], *, first: int) -> Iterator[tuple[int, Tensor]]:
    """(position, hidden states (T, D) from there on), chunk by chunk, for the positions from `first` on."""
    weight = model.model.norm.weight
    cache = StaticCache(model.config, batch=1, limit=len(ids), dtype=weight.dtype, device=weight.device)
    for done in range(0, len(ids), CHUNK):
        piece = torch.tensor([ids[done : done + CHUNK]], device=weight.device)  # (1, T)
        positions = cache.begin([(done, piece.shape[1])])
        hidden = model.hidden(piece, positions, cache.attends)[0]  # (T, D)
        place = max(done, first)
        yield place, hidden[place - done :]


def score(logprobs: Tensor, token: int, top: int, text_of: Callable[[int], str]) -> Logprob:
    """One row of log-probabilities (V,) as the token's own and the likeliest ones'."""
    values, ids = logprobs.topk(min(top, len(logprobs)))
    likeliest = tuple((i, text_of(i), v) for i, v in zip(ids.tolist(), values.tolist(), strict=True))
    return Logprob(token_id=token, text=text_of(token), logprob=logprobs[token].item(), top=likeliest)
