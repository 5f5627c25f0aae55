"""The paged cache: logits of the plain forward wherever the pages lie, and at most two compiled graphs."""

from typing import Any

import pytest
import torch
from peers import VARIANTS, build, tiny
from test_static import MIXED, rectangle, steps
from torch import Tensor, nn
from torch.fx.experimental import _config as shapes

from pureqwen import kernels
from pureqwen.cache import PagedCache, StaticCache, paged
from pureqwen.cache.paged import varlen_refusal
from pureqwen.cache.static import FEW
from pureqwen.kernels import Table, twins
from pureqwen.rewrite import for_cpu

Row = tuple[list[int], int, int]


def tables(page_size: int, length: int, *, count: int = 2) -> list[list[int]]:
    """Pages of `count` texts, in an order that is nobody's."""
    needed = -(-length // page_size)
    order = torch.randperm(count * needed, generator=torch.Generator().manual_seed(3)).tolist()
    return [order[n::count] for n in range(count)]


def packed(text: Tensor, rows: list[Row], which: list[int]) -> Tensor:
    """The ids (T,) of a step, of rows of text (B, S)."""
    return torch.cat([text[n, at : at + now] for n, (_, at, now) in zip(which, rows, strict=True)])


def step(
    text: Tensor, pages: list[list[int]], counts: list[tuple[int, int]]
) -> tuple[list[Row], Tensor, list[int]]:
    """The rows that have something to compute, those of many tokens last; their ids; which they are."""
    which = [n for n, (_, now) in enumerate(counts) if now]
    which.sort(key=lambda n: counts[n][1] > FEW)
    rows = [(pages[n], *counts[n]) for n in which]
    return rows, packed(text, rows, which), which


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("page_size", "apart"), [(1, False), (16, False), (5, True)])
@torch.inference_mode()
def test_paged_logits_equal_the_plain_forward_at_every_step(
    page_size: int, apart: bool, native: bool
) -> None:
    config = tiny(head_dim=32)  # whose attention is native where the code is there
    model = for_cpu(build(config)) if native else build(config)
    text = torch.randint(0, config.vocab_size, (2, 128), generator=torch.Generator().manual_seed(0))
    full, pages = model(text), tables(page_size, 128)
    cache = PagedCache(config, num_pages=2 * len(pages[0]), page_size=page_size, apart=apart)
    for counts in steps(MIXED):
        rows, ids, which = step(text, pages, counts)
        found = model(ids, cache.begin(rows), cache.attends).split([now for _, _, now in rows])
        for logits, n, (_, at, now) in zip(found, which, rows, strict=True):
            assert (logits - full[n, at : at + now]).abs().max() <= 2e-5 * full.abs().max()


@torch.inference_mode()
def test_in_bfloat16_both_caches_give_the_plain_forward_s_logits() -> None:
    config = tiny(head_dim=32)
    model = build(config)
    text = torch.randint(0, config.vocab_size, (2, 128), generator=torch.Generator().manual_seed(0))
    full, pages = model(text), tables(16, 128)
    model = for_cpu(model.bfloat16())
    limit = 2.0 * float((model(text).float() - full).abs().max())  # what bfloat16 itself makes of it
    paged = PagedCache(config, num_pages=2 * len(pages[0]), dtype=torch.bfloat16)
    static = StaticCache(config, batch=2, limit=128, dtype=torch.bfloat16)
    for counts in steps(MIXED):
        rows, ids, which = step(text, pages, counts)
        found = model(ids, paged.begin(rows), paged.attends).split([now for _, _, now in rows])
        others = model(rectangle(text, counts), static.begin(counts), static.attends)
        for logits, n, (_, at, now) in zip(found, which, rows, strict=True):
            for mine in (logits, others[n, :now]):
                assert (mine.float() - full[n, at : at + now]).abs().max() <= limit


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_every_kind_of_model_attends_over_pages(variant: str) -> None:
    config = tiny(**VARIANTS[variant])
    model = build(config)
    text = torch.randint(0, config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    full, pages = model(text), tables(4, 40)
    cache = PagedCache(config, num_pages=20, page_size=4)
    for counts in ([(0, 9), (0, 0)], [(9, 1), (0, 30)], [(10, 3), (30, 10)]):
        rows, ids, which = step(text, pages, counts)
        found = model(ids, cache.begin(rows), cache.attends).split([now for _, _, now in rows])
        for logits, n, (_, at, now) in zip(found, which, rows, strict=True):
            assert (logits - full[n, at : at + now]).abs().max() <= 2e-5 * full.abs().max()


@torch.inference_mode()
def test_a_page_serves_several_texts_and_what_stands_in_others_is_never_read() -> None:
    """Two texts share their first page; everything that neither has written is no number at all."""
    config = tiny()
    model = build(config)
    text = torch.arange(24).repeat(2, 1) * 7 % 256
    text[1, 20:] += 1
    full = model(text)
    cache = PagedCache(config, num_pages=8, page_size=8)
    for attend in cache.attends:
        attend.k.fill_(float("nan"))
        attend.v.fill_(float("nan"))
    model(text[0, :16], cache.begin([([6, 2], 0, 16)]), cache.attends)
    rows: list[Row] = [([6, 2, 4], 16, 8), ([6, 2, 7], 16, 8)]
    found = model(text[:, 16:].flatten(), cache.begin(rows), cache.attends).view(2, 8, -1)
    assert (found - full[:, 16:]).abs().max() <= 2e-5 * full.abs().max()


def test_begin_gives_positions_and_refuses_rows_without_pages_and_rows_out_of_order() -> None:
    cache = PagedCache(tiny(), num_pages=8, page_size=4)
    positions = cache.begin([([0, 1], 5, 1), ([3], 2, 2), ([2, 5], 0, 8)])
    assert positions.tolist() == [5, 2, 3, *range(8)]
    assert cache.attends[0].slots.tolist() == [5, 14, 15, 8, 9, 10, 11, 20, 21, 22, 23]
    assert cache.attends[0].lengths.tolist() == [6, 4, 8]
    with pytest.raises(AssertionError):
        cache.begin([([0], 4, 1)])
    with pytest.raises(AssertionError):
        cache.begin([([0], 3, 0)])
    with pytest.raises(AssertionError, match="last"):
        cache.begin([([0, 1], 0, 8), ([3], 0, 1)])


def test_all_layers_see_the_tensors_of_the_step_at_the_same_addresses() -> None:
    """Where shapes agree: what is recorded or compiled holds on to them."""
    cache = PagedCache(tiny(), num_pages=8, page_size=4)
    cache.begin([([0], 0, 1), ([1], 1, 1)])
    first = cache.attends[0].slots
    cache.begin([([0], 1, 1), ([1], 2, 1)])
    assert all(attend.slots is first for attend in cache.attends)
    assert first.tolist() == [1, 6]


@pytest.mark.skipif(kernels.native() is not None, reason=f"no native code: {kernels.native()}")
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@torch.no_grad()
@shapes.patch(use_duck_shape=False)
def test_fifty_mixed_steps_build_at_most_two_graphs_and_copy_no_page() -> None:
    """One for a single token, one for more; that two lengths are the same by chance makes no third."""
    torch._dynamo.reset()
    config = tiny(head_dim=32, num_hidden_layers=3)
    model = build(config)
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for block in model.model.layers:
        nn.Module.compile(block, backend=backend, dynamic=True)
    text = torch.randint(0, config.vocab_size, (2, 128), generator=torch.Generator().manual_seed(0))
    full, pages = model(text), tables(8, 128)
    graphs.clear()
    cache = PagedCache(config, num_pages=32, page_size=8)
    for counts in steps(MIXED):
        rows, ids, which = step(text, pages, counts)
        found = model(ids, cache.begin(rows), cache.attends).split([now for _, _, now in rows])
        for logits, n, (_, at, now) in zip(found, which, rows, strict=True):
            assert (logits - full[n, at : at + now]).abs().max() <= 2e-5 * full.abs().max()
    assert len(graphs) <= 2
    large = cache.attends[0].k.shape
    copies = [
        node
        for graph in graphs
        for node in graph.graph.nodes
        if "clone" in str(node.target) and getattr(node.meta.get("example_value"), "shape", None) == large
    ]
    assert not copies
    torch._dynamo.reset()


def test_where_attention_over_all_rows_at_once_is_missing_that_is_said_and_nothing_crashes() -> None:
    """As with a GPU, or a build of torch, that lacks it: tried once, before the first step."""
    varlen_refusal.cache_clear()
    with pytest.warns(
        UserWarning, match="attention copies keys and values, which takes longer: Could not run"
    ):
        reason = varlen_refusal(torch.device("cpu"), torch.bfloat16, 2, 64)
    assert reason is not None
    assert "'CPU' backend" in reason
    assert varlen_refusal(torch.device("cpu"), torch.bfloat16, 2, 64) == reason


@pytest.mark.parametrize("at_a_time", [1, 40, 10_000])  # keys
def test_rows_of_few_tokens_are_gathered_as_the_definition_attends(
    at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere than on a CPU: rows of other lengths and an empty one, in one product or in several."""
    monkeypatch.setattr(paged, "GATHERED", at_a_time)
    make = torch.Generator().manual_seed(0)
    k, v = (torch.randn(12, 4, 2, 16, generator=make) for _ in range(2))  # pages of 4 tokens
    q = torch.randn(7, 6, 16, generator=make)
    table = Table(
        torch.tensor([[3, 7, 1], [0, 0, 0], [5, 2, 0], [0, 0, 0]], dtype=torch.int32),
        torch.tensor([0, 4, 5, 7, 7], dtype=torch.int32),
        torch.tensor([11, 1, 8, 0], dtype=torch.int32),
    )
    found = paged.gathered(q, k, v, table)
    torch.testing.assert_close(found, twins.paged_attention(q, k, v, *table))
