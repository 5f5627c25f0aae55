"""The paged cache: the keys and values of many texts in pages of one pool; a table says whose is which.

    text A   [ k0 ... k15 | k16 ... k31 | k32 . . . ]        pages of 16: A has 0, 4, 2 and B has 0, 4, 5,
    text B   [ k0 ... k15 | k16 ... k31 | k32 k33 . ]        since both begin with the same 32 tokens

             page 0    page 1    page 2    page 3    page 4    page 5
             A B 0-15            A 32-               A B 16-31 B 32-

A step computes some tokens of some rows, packed into one line of T: (pages, tokens cached, tokens now) says
of each row where its keys and values lie, how many do already, and how many come. That is a prompt, a piece
of one, a prompt whose beginning was found, the next token, and a draft that is to be verified: there is no
other case. A token sees its own row up to itself.

What a row costs grows with its own length only, but for the last of these ways:

    few tokens a row       native code reads its pages where they lie
    many (a prompt)        so it does with AVX2, and in bfloat16 where the processor multiplies that;
                           elsewhere its pages are gathered, and PyTorch's attention does it in large products
    on CUDA                one call for all rows: torch.nn.attention.varlen with the table, where it can; else
                           pages are gathered, of all rows of few tokens together

Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention". Which
pages a row has is not decided here (pages.py).
"""

import warnings
from array import array
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from pureqwen import kernels
from pureqwen.cache.memory import zeros
from pureqwen.cache.static import FEW
from pureqwen.config import ModelConfig
from pureqwen.model.attention import scaled_dot_product

VARLEN_PAGE = 256  # the kernel behind torch.nn.attention.varlen takes pages of a multiple of so many tokens
# Keys, and as many values, that are copied together: half a gigabyte in Qwen3-0.6B, in bfloat16.
GATHERED = 2**17

Rows = Sequence[tuple[Sequence[int], int, int]]  # of each row: its pages, tokens cached, tokens now


@cache
def varlen_refusal(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int) -> str | None:
    """None where torch.nn.attention.varlen attends over pages, else why it does not; said once.

    Found out by a trial: it depends on the GPU and on what torch was built with.
    """
    q = torch.zeros(2, heads, head_dim, dtype=dtype, device=device)
    k = torch.zeros(1, VARLEN_PAGE, heads, head_dim, dtype=dtype, device=device)
    starts, lengths = torch.tensor([[0, 2], [2, 0]], dtype=torch.int32, device=device)
    try:
        varlen(q, k, k, kernels.Table(lengths[1:, None], starts, lengths[:1]))
    except (TypeError, RuntimeError) as error:
        reason = str(error).partition(". ")[0].strip()
        warnings.warn(f"attention copies keys and values, which takes longer: {reason}", stacklevel=2)
        return reason
    return None


def varlen(q: Tensor, k_pages: Tensor, v_pages: Tensor, table: kernels.Table) -> Tensor:
    """All rows in one call. What bounds their lengths are shapes: the device is not asked for numbers.

    One split: how a row's keys are cut must not depend on the longest row beside it.
    """
    from torch.nn.attention.varlen import varlen_attn  # which other devices need not load

    out = varlen_attn(
        q,
        k_pages,
        v_pages,
        table.starts,
        None,
        len(q),
        table.pages.shape[1] * k_pages.shape[1],
        window_size=(-1, 0),
        enable_gqa=q.shape[1] != k_pages.shape[2],
        seqused_k=table.lengths,
        block_table=table.pages,
        num_splits=1,
    )
    assert isinstance(out, Tensor)
    return out


def gathered(q: Tensor, k_pages: Tensor, v_pages: Tensor, table: kernels.Table) -> Tensor:
    """Each token q (T, H, Dh) with a copy of its row's pages, as wide as the longest row's: plain products of
    one shape, many tokens in one call.
    """
    T, H, Dh = q.shape
    pages, starts, lengths = table
    width, Hkv = pages.shape[1] * k_pages.shape[1], k_pages.shape[2]
    tokens = torch.arange(T, dtype=starts.dtype, device=q.device)
    rows = torch.searchsorted(starts, tokens, right=True) - 1  # (T,): whose each is
    seen = lengths[rows] - (starts[rows + 1] - 1 - tokens)  # (T,): keys that each sees
    mask = torch.arange(width, device=q.device) < seen[:, None]  # (T, width)
    folded = q.reshape(T, Hkv, H // Hkv, Dh)  # the heads of a group as a sequence: each key is read once
    out = []
    for at in range(0, T, step := max(1, GATHERED // width)):
        mine = slice(at, at + step)
        k, v = (x[pages[rows[mine]]].flatten(1, 2).transpose(1, 2) for x in (k_pages, v_pages))
        o = F.scaled_dot_product_attention(folded[mine], k, v, attn_mask=mask[mine, None, None])
        out.append(o.reshape(-1, H, Dh))
    return torch.cat(out)


class PagedAttend(kernels.InPlace):
    """One layer's attention over pages: writes k and v into their slots, then reads those of each row.

    q (T, H, Dh), k and v (T, Hkv, Dh): the tokens of the step, row after row.
    """

    ALIKE = True
    k: Tensor  # (P, page, Hkv, Dh): this layer's own
    v: Tensor
    slots: Tensor  # (T,): the step's, the same for every layer: where each token's key and value go,
    pages: Tensor  # (R, W), starts (R + 1,), lengths (R,): the rows as `kernels.Table` has them,
    starts: Tensor
    lengths: Tensor
    many: Tensor  # (M,): the rows, by number, that have many tokens; behind them are only empty ones
    apart = False  # whether no row's bits may depend on another's

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kernels.store_pages(k, v, self.k, self.v, self.slots)
        table = kernels.Table(self.pages, self.starts, self.lengths)
        if self.at_once(q):
            return varlen(q, self.k, self.v, table)
        if torch.compiler.is_compiling() or self.in_place(q):
            return kernels.paged_attention(q, self.k, self.v, table)
        return self.parted(q, table)

    def in_place(self, x: Tensor) -> bool:
        """Whether pages are best read where they lie."""
        return x.device.type == "cpu" and (len(self.many) == 0 or kernels.attends_blocks(x))

    def place(self, x: Tensor) -> kernels.Place | None:
        """Where native code puts and finds the keys and values of x (T, D), if it can."""
        native = kernels.runs(x) and self.k.shape[-1] % kernels.LINE == 0 and self.in_place(x)
        if type(self).__call__ is not PagedAttend.__call__ or not native:
            return None
        return kernels.Place(self.slots, kernels.Table(self.pages, self.starts, self.lengths))

    def parted(self, q: Tensor, table: kernels.Table) -> Tensor:
        """The rows of few tokens together, each row of many by itself."""
        together = {"cpu": kernels.paged_attention, "cuda": gathered}.get(q.device.type)
        if together and len(self.many) == 0 and not self.apart:  # as its shape says: the device is not asked
            return together(q, self.k, self.v, table)
        starts, lengths, many = (x.tolist() for x in (self.starts, self.lengths, self.many))
        R = many[0] if together and many else 0
        out = torch.empty_like(q)
        if together and R:
            width = -(-max(lengths[:R]) // self.k.shape[1])  # theirs, not that of the prompts beside them
            pages = table.pages[:R, :width].contiguous()
            few = kernels.Table(pages, table.starts[: R + 1], table.lengths[:R])
            out[: starts[R]] = together(q[: starts[R]], self.k, self.v, few)
        for r in range(R, len(lengths)):
            if starts[r] < starts[r + 1]:
                out[starts[r] : starts[r + 1]] = self.whole(q[starts[r] : starts[r + 1]], r, lengths[r])
        return out

    def whole(self, q: Tensor, r: int, length: int) -> Tensor:
        """The tokens q (S, H, Dh) of row r, which has `length` keys with them."""
        pages = self.pages[r, : -(-length // self.k.shape[1])].long()
        k, v = (x[pages].flatten(0, 1)[:length] for x in (self.k, self.v))  # (length, Hkv, Dh)
        if len(q) == length:
            return scaled_dot_product(q, k, v, mask=None)
        places = torch.arange(length, device=q.device)
        mask = places <= places[length - len(q) :, None]  # (S, length)
        return scaled_dot_product(q, k, v, mask=mask[None])

    def at_once(self, q: Tensor) -> bool:
        """Whether one call of torch.nn.attention.varlen can do it."""
        fits = q.dtype in (torch.bfloat16, torch.float16) and self.k.shape[1] % VARLEN_PAGE == 0
        return q.device.type == "cuda" and fits and not varlen_refusal(q.device, q.dtype, *q.shape[1:])


class PagedCache:
    """Keys and values of `num_pages` pages, and one page more: what is thrown away goes there.

    apart: every token is attended to as a row of its own, by the same code whatever stands beside it, so that
    its bits depend neither on the size of a piece nor on the other rows (`EngineConfig.deterministic`).
    """

    SHARED = ("slots", "many", "pages", "starts", "lengths")  # what a step tells every layer

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_pages: int,
        page_size: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        apart: bool = False,
    ) -> None:
        self.num_pages, self.page_size, self.apart = num_pages, page_size, apart
        self.scratch = num_pages  # the page that nobody reads
        self.attends = [PagedAttend() for _ in range(config.num_hidden_layers)]
        shape = (num_pages + 1, page_size, config.num_key_value_heads, config.head_dim)
        for attend in self.attends:
            attend.apart = apart
        for attend in self.attends:  # a kernel may multiply what no text has written yet by 0: no NaN, then
            attend.k, attend.v = (zeros(*shape, dtype=dtype, device=device) for _ in range(2))

    def begin(self, rows: Rows, *, width: int = 2, alone: bool = False) -> Tensor:
        """Make ready for a forward that computes, of each row (pages, tokens cached, tokens now), the next
        tokens. Rows of more than FEW tokens come last. width: pages that the table has at least for each.
        alone: rows are attended to one by one on CUDA, also those of few tokens (see `uneven`).

        Returns the positions (T,), T the sum of the tokens now; row after row, as the ids are to be.
        """
        counts = [now for _, _, now in rows]
        assert all(now > 0 and len(pages) * self.page_size >= cached + now for pages, cached, now in rows)
        many = [r for r, now in enumerate(counts) if now > FEW and not self.apart]
        assert many == list(range(len(rows) - len(many), len(rows))), "rows of many tokens come last"
        positions = [p for _, cached, now in rows for p in range(cached, cached + now)]
        size = self.page_size
        slots = [
            pages[p // size] * size + p % size
            for pages, start, now in rows
            for p in range(start, start + now)
        ]
        if self.apart:
            rows = [(pages, p, 1) for pages, start, now in rows for p in range(start, start + now)]
        self.share("slots", torch.tensor(slots))
        self.share("many", torch.tensor(range(len(rows)) if alone else many, dtype=torch.int32))
        self.table(rows, width)
        return torch.tensor(positions, device=self.attends[0].k.device)

    def uneven(self, rows: Rows) -> bool:
        """Whether rows side by side, each as wide as the longest, would be next to empty."""
        lengths = [cached + now for _, cached, now in rows]
        wide = max(lengths) * len(lengths)
        return wide > GATHERED and wide > 8 * sum(lengths)

    def table(self, rows: Rows, width: int = 2) -> None:
        """Tell every layer which pages each row has, which tokens are whose, and how many keys each sees.

        At least two rows of two pages, if need be empty ones: torch.compile takes a dimension of 1 for a
        constant, and would build another graph for it.
        """
        rows = [*rows, *[((), 0, 0)] * (2 - len(rows))]
        needed = [-(-(cached + now) // self.page_size) for _, cached, now in rows]
        size = 4 * max(width, *needed)  # bytes
        lines = [array("i", pages[:n]).tobytes() for (pages, _, _), n in zip(rows, needed, strict=True)]
        packed = bytearray().join(line.ljust(size, b"\0") for line in lines)
        starts = [0]
        for _, _, now in rows:
            starts.append(starts[-1] + now)
        self.share("pages", torch.frombuffer(packed, dtype=torch.int32).view(len(rows), -1))
        self.share("starts", torch.tensor(starts, dtype=torch.int32))
        self.share("lengths", torch.tensor([cached + now for _, cached, now in rows], dtype=torch.int32))

    def share(self, name: str, value: Tensor) -> None:
        """Give every layer a tensor of the step; in place when shapes agree, since graphs hold addresses."""
        last = getattr(self.attends[0], name, None)
        if last is not None and last.shape == value.shape:
            last.copy_(value)
            return
        value = value.to(self.attends[0].k.device)
        for attend in self.attends:
            setattr(attend, name, value)
