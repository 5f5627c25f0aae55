"""What stands between the products, and attention over pages, in native code: as their twins have it."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pureqwen import kernels
from pureqwen.kernels import twins

pytestmark = pytest.mark.skipif(kernels.native() is not None, reason=f"no native code: {kernels.native()}")
DTYPES = [torch.float32, torch.bfloat16]
ULP = {torch.float32: 2e-6, torch.bfloat16: 8e-3}  # of the largest number


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def assert_near(got: Tensor, expected: Tensor) -> None:
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    limit = ULP[got.dtype] * float(expected.abs().max())
    assert float((got.float() - expected.float()).abs().max()) <= limit


def angles(T: int, Dh: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    turns = torch.randn(T, Dh // 2) * 5
    return turns.cos().to(dtype), turns.sin().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 100, 1024])
def test_a_norm_and_a_gate_are_their_twins(width: int, dtype: torch.dtype) -> None:
    x, weight = (torch.randn(5, width) * 9).to(dtype), torch.randn(width).to(dtype)
    assert_near(kernels.rms_norm(x, weight, 1e-6), twins.rms_norm(x, weight, 1e-6))
    gate, up = (torch.randn(5, width) * 30).to(dtype), torch.randn(5, width).to(dtype)
    assert_near(kernels.swiglu(gate, up), twins.swiglu(gate, up))


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_whole_numbers_they_are_what_rounding_them_gives(dtype: torch.dtype) -> None:
    x, weight, up = torch.randn(3, 96).to(dtype), torch.randn(96).to(dtype), torch.randn(3, 96).to(dtype)
    for whole, floats in (
        (kernels.rms_norm_quantize(x, weight, 1e-6), kernels.rms_norm(x, weight, 1e-6)),
        (kernels.swiglu_quantize(x, up), kernels.swiglu(x, up)),
        (kernels.quantize(x), x),
    ):
        q, scale = twins.whole(floats)
        assert torch.equal(whole.q, q) and torch.equal(whole.scale, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("Dh", [32, 64, 128])
def test_heads_are_normed_and_then_turned(Dh: int, dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 4, Dh).to(dtype), torch.rand(Dh).to(dtype)
    arguments = (x, weight, 1e-6, *angles(3, Dh, dtype))
    assert_near(kernels.qk_norm_rope(*arguments), twins.qk_norm_rope(*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_and_values_go_to_their_slots_and_nowhere_else(dtype: torch.dtype) -> None:
    k, v, slots = torch.randn(3, 2, 32).to(dtype), torch.randn(3, 2, 32).to(dtype), torch.tensor([7, 0, 11])
    pages = [torch.zeros(3, 4, 2, 32, dtype=dtype) for _ in range(4)]
    kernels.store_pages(k, v, *pages[:2], slots)
    twins.store_pages(k, v, *pages[2:], slots)
    assert torch.equal(pages[0], pages[2]) and torch.equal(pages[1], pages[3])
    with pytest.raises(RuntimeError, match="no such slot"):
        kernels.store_pages(k, v, *pages[:2], torch.tensor([1, 2, 12]))


Pages = tuple[Tensor, Tensor, Tensor, kernels.Table]


def pages(H: int, Hkv: int, Dh: int, page: int, dtype: torch.dtype) -> Pages:
    """Three rows of 1, 3 and 2 tokens with up to 300 keys, their pages scattered."""
    width, now = -(-300 // page), [1, 3, 2]
    k, v = (torch.randn(3 * width + 2, page, Hkv, Dh).to(dtype) for _ in range(2))
    table = torch.randperm(len(k))[: 3 * width].view(3, width).int()
    starts = torch.tensor([0, 1, 4, 6], dtype=torch.int32)
    return (
        torch.randn(sum(now), H, Dh).to(dtype), k, v,
        kernels.Table(table, starts, torch.tensor([300, 65, 2], dtype=torch.int32)),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("H", "Hkv", "Dh", "page"),
    [(4, 2, 32, 16), (16, 8, 128, 600), (6, 2, 64, 7), (5, 5, 96, 64), (28, 4, 128, 16), (40, 5, 32, 9)],
)
def test_attention_over_pages_is_its_twin(H: int, Hkv: int, Dh: int, page: int, dtype: torch.dtype) -> None:
    q, k, v, table = pages(H, Hkv, Dh, page, dtype)
    got, expected = kernels.paged_attention(q, k, v, table), twins.paged_attention(q, k, v, *table)
    assert_near(got, expected)


def test_attention_looks_at_no_key_behind_a_token_and_at_no_other_page() -> None:
    q, k, v, table = pages(4, 2, 32, 16, torch.float32)
    before = kernels.paged_attention(q, k, v, table)
    used = {int(p) for r, n in enumerate((300, 65, 2)) for p in table.pages[r, : -(-n // 16)]}
    for p in set(range(len(k))) - used:
        k[p] = v[p] = float("nan")
    last = int(table.pages[1, 4])  # key 64 of row 1 lies there, alone
    k[last, 1:] = v[last, 1:] = float("nan")
    assert torch.equal(kernels.paged_attention(q, k, v, table), before)
    k[last, 0] = 9.0  # the last of row 1's three tokens sees it, the two before do not
    changed = (kernels.paged_attention(q, k, v, table) != before).flatten(1).any(-1)
    assert changed.tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_s_attention_depends_on_no_neighbour_no_page_size_and_no_number_of_threads(
    dtype: torch.dtype,
) -> None:
    shapes = (2, 304, 2, 32), (2, 304, 2, 32), (2, 4, 32)
    k, v, q = (torch.randn(shape).to(dtype) for shape in shapes)
    whole = kernels.Table(*(torch.tensor(x, dtype=torch.int32) for x in ([[0], [1]], [0, 1, 2], [290, 200])))
    expected = kernels.paged_attention(q, k, v, whole)
    torch.set_num_threads(1)
    assert torch.equal(kernels.paged_attention(q, k, v, whole), expected)
    alone = kernels.Table(torch.tensor([[1]]).int(), torch.tensor([0, 1]).int(), torch.tensor([200]).int())
    assert torch.equal(kernels.paged_attention(q[1:], k, v, alone)[0], expected[1])
    small = [x.reshape(2 * 19, 16, 2, 32) for x in (k, v)]
    cut = kernels.Table(torch.arange(38).view(2, 19).int(), whole.starts, whole.lengths)
    assert torch.equal(kernels.paged_attention(q, *small, cut), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [4, 37])
@pytest.mark.parametrize("prompt", [False, True])
def test_a_value_that_is_no_number_stays_in_its_column(
    prompt: bool, column: int, strange: float, dtype: torch.dtype
) -> None:
    q, k, v, table = prompts(4, 2, 64, 16, [(70, 90)], dtype) if prompt else pages(4, 2, 64, 16, dtype)
    expected = kernels.paged_attention(q, k, v, table)
    v[..., column] = strange
    got = kernels.paged_attention(q, k, v, table)
    others = [i for i in range(64) if i != column]
    assert torch.equal(got[..., others], expected[..., others])
    assert not got[..., column].isfinite().any()
    if not prompt:  # whose blocks multiply what is behind a token by 0
        assert torch.equal(
            got[..., column].isnan(), torch.full_like(got[..., column], math.isnan(strange)).bool()
        )


def test_queries_keys_and_values_may_lie_in_any_order() -> None:
    """An attention of one's own hands over what a transposition made."""
    q, k, v, table = pages(4, 2, 32, 16, torch.float32)
    turned = q.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(kernels.paged_attention(turned, k, v, table), kernels.paged_attention(q, k, v, table))
    new, slots = torch.randn(2, 3, 32).transpose(0, 1), torch.tensor([0, 5, 9])
    kernels.store_pages(new, new, k, v, slots)
    assert torch.equal(k.flatten(0, 1)[slots], new) and torch.equal(v.flatten(0, 1)[slots], new)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("no such page", lambda q, k, v, t: (q, k, v, t._replace(pages=t.pages + 1000))),
        ("bad row_starts", lambda q, k, v, t: (q, k, v, t._replace(starts=t.starts + 1))),
        ("bad table", lambda q, k, v, t: (q, k, v, t._replace(lengths=t.lengths.long()))),
        ("bad heads", lambda q, k, v, t: (q, k.double(), v, t)),
        ("not contiguous", lambda q, k, v, t: (q, k.transpose(0, 1), v, t)),
    ],
)
def test_what_does_not_fit_is_an_error_and_not_a_crash(what: str, change: Callable[..., Pages]) -> None:
    with pytest.raises(RuntimeError, match=what):
        kernels.paged_attention(*change(*pages(4, 2, 32, 16, torch.float32)))


# ---- many queries of a row -------------------------------------------------------------------------------


def prompts(
    H: int, Hkv: int, Dh: int, page: int, rows: list[tuple[int, int]], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, kernels.Table]:
    """Rows of (tokens, keys with them), their pages scattered."""
    width = max(-(-keys // page) for _, keys in rows)
    k, v = (torch.randn(len(rows) * width + 2, page, Hkv, Dh).to(dtype) for _ in range(2))
    places = torch.randperm(len(k))[: len(rows) * width].view(len(rows), width).int()
    starts = torch.tensor([0, *(now for now, _ in rows)]).cumsum(0).int()
    lengths = torch.tensor([keys for _, keys in rows]).int()
    q = torch.randn(int(starts[-1]), H, Dh).to(dtype)
    return q, k, v, kernels.Table(places, starts, lengths)


def with_pytorch(q: Tensor, k: Tensor, v: Tensor, table: kernels.Table) -> Tensor:
    """Attention of one row by PyTorch's own, in the dtype of q."""
    length, groups = int(table.lengths[0]), q.shape[1] // k.shape[2]
    keys, values = (
        x[table.pages[0].long()].flatten(0, 1)[:length].transpose(0, 1).repeat_interleave(groups, 0)
        for x in (k, v)
    )
    places = torch.arange(length)
    seen = places <= places[length - len(q) :, None]
    o = F.scaled_dot_product_attention(q.transpose(0, 1)[None], keys[None], values[None], attn_mask=seen)
    return o[0].transpose(0, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_long_text_s_tokens_are_as_if_each_were_alone_and_its_keys_in_one_page(dtype: torch.dtype) -> None:
    """Chunks of 64 keys up to 8,191, of 128, 192 and, from 16,384 on, of 256."""
    rows = [(2, 8192), (1, 12_300), (1, 16_383), (2, 16_641), (1, 60), (1, 40_001)]
    q, k, v, table = prompts(4, 2, 32, 16, rows, dtype)
    got = kernels.paged_attention(q, k, v, table)
    assert_near(got, twins.paged_attention(q, k, v, *table))
    torch.set_num_threads(1)
    assert torch.equal(kernels.paged_attention(q, k, v, table), got)
    for r, (begin, end) in enumerate(pairwise(table.starts.tolist())):
        whole = [x[table.pages[r].long()].flatten(0, 1)[None] for x in (k, v)]
        for t in range(begin, end):
            sees = int(table.lengths[r]) - (end - 1 - t)
            alone = kernels.Table(*(torch.tensor(x).int() for x in ([[0]], [0, 1], [sees])))
            assert torch.equal(kernels.paged_attention(q[t : t + 1], *whole, alone)[0], got[t])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("H", "Hkv", "Dh", "page", "now", "keys"),
    [
        (16, 8, 128, 256, 300, 300),
        (4, 2, 32, 7, 33, 190),
        (6, 2, 96, 600, 130, 555),
        (5, 5, 64, 16, 64, 64),
        (16, 1, 64, 1, 5, 77),
        (200, 1, 32, 16, 7, 40),  # more heads to a key than a block has queries
    ],
)
def test_a_prompt_s_attention_errs_no_more_than_pytorch_s(
    H: int, Hkv: int, Dh: int, page: int, now: int, keys: int, dtype: torch.dtype
) -> None:
    q, k, v, table = prompts(H, Hkv, Dh, page, [(now, keys)], dtype)
    exact = twins.paged_attention(q.double(), k.double(), v.double(), *table)
    ours, theirs = (
        (x.double() - exact).square().mean().sqrt()
        for x in (kernels.paged_attention(q, k, v, table), with_pytorch(q, k, v, table))
    )
    assert ours <= (1.1 if dtype == torch.bfloat16 else 2) * theirs  # of float32 either is rounding


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt_s_tokens_depend_on_no_piece_no_neighbour_no_page_size_and_no_number_of_threads(
    dtype: torch.dtype,
) -> None:
    q, k, v, table = prompts(4, 2, 32, 16, [(1, 30), (150, 200), (9, 9)], dtype)
    expected = kernels.paged_attention(q, k, v, table)
    torch.set_num_threads(1)
    assert torch.equal(kernels.paged_attention(q, k, v, table), expected)
    starts, one = torch.tensor([0, 150]).int(), table.pages[1:2]
    alone = kernels.Table(one, starts, torch.tensor([200]).int())
    mine, found = q[1:151], expected[1:151]
    assert torch.equal(kernels.paged_attention(mine, k, v, alone), found)
    rows = [x[one[0].long()].flatten(0, 1)[None] for x in (k, v)]
    whole = alone._replace(pages=torch.tensor([[0]]).int())
    assert torch.equal(kernels.paged_attention(mine, *rows, whole), found)
    if not kernels.attends_blocks(q):
        return
    for begin, end in ((0, 70), (70, 75), (75, 150)):
        piece = kernels.Table(one, torch.tensor([0, end - begin]).int(), torch.tensor([50 + end]).int())
        assert torch.equal(kernels.paged_attention(mine[begin:end], k, v, piece), found[begin:end])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt_reads_no_page_of_others_and_no_key_behind_its_last(dtype: torch.dtype) -> None:
    q, k, v, table = prompts(4, 2, 32, 16, [(70, 70), (20, 37)], dtype)
    before = kernels.paged_attention(q, k, v, table)
    used = {int(p) for r, n in enumerate((70, 37)) for p in table.pages[r, : -(-n // 16)]}
    for p in set(range(len(k))) - used:
        k[p] = v[p] = float("nan")
    for r, n in enumerate((70, 37)):
        k[table.pages[r, n // 16].long(), n % 16 :] = v[table.pages[r, n // 16].long(), n % 16 :] = float(
            "nan"
        )
    assert torch.equal(kernels.paged_attention(q, k, v, table), before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fillers_behind_the_last_slot_are_harmless(dtype: torch.dtype) -> None:
    """A static cache's rectangle: a row of few tokens near its end is filled up beyond it."""
    q, k, v, table = prompts(4, 2, 32, 64, [(40, 60), (40, 64)], dtype)
    expected = kernels.paged_attention(q, k, v, table)
    beyond = table._replace(lengths=torch.tensor([60, 70]).int())  # the last six are nobody's
    found = kernels.paged_attention(q, k, v, beyond)
    assert torch.equal(found[:40], expected[:40]) and found.isfinite().all()
    inside = kernels.Table(table.pages[1:], torch.tensor([0, 34]).int(), torch.tensor([64]).int())
    assert torch.equal(kernels.paged_attention(q[40:74], k, v, inside), found[40:74])
