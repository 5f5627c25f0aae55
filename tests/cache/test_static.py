"""The static cache: logits of the plain forward, bounded memory, at most two compiled graphs."""

import weakref

import pytest
import torch
from peers import VARIANTS, build, tiny
from torch import nn

from pureqwen import kernels
from pureqwen.cache import StaticCache, bytes_per_token, static
from pureqwen.garbage import uncollected

# How 50 forwards of two rows may go: prompts, chunks and single tokens, together and apart.
MIXED = [
    (5, 3),
    (1, 1),
    (0, 7),
    (4, 0),
    *[(1, 1)] * 20,
    (1, 0),
    (33, 2),
    *[(1, 1)] * 10,
    (8, 8),
    *[(1, 1)] * 13,
]


def steps(rows: list[tuple[int, int]]):
    """The (cached, now) of each step from its (now, now)."""
    done = [0, 0]
    for now in rows:
        yield [(d, n) for d, n in zip(done, now, strict=True)]
        done = [d + n for d, n in zip(done, now, strict=True)]


def rectangle(text: torch.Tensor, rows: list[tuple[int, int]]) -> torch.Tensor:
    """The ids (B, S) that a step computes, filled up with zeros."""
    width = max(now for _, now in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for n, (cached, now) in enumerate(rows):
        ids[n, :now] = text[n, cached : cached + now]
    return ids


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_cached_logits_equal_the_plain_forward_at_every_step(variant):
    config = tiny(**VARIANTS[variant])
    model = build(config)
    text = torch.randint(0, config.vocab_size, (2, 128))
    full = model(text)
    cache = StaticCache(config, batch=2, limit=128)
    for rows in steps(MIXED):
        logits = model(rectangle(text, rows), cache.begin(rows), cache.attends)
        for n, (cached, now) in enumerate(rows):
            difference = (logits[n, :now] - full[n, cached : cached + now]).abs()
            assert now == 0 or difference.max() <= 2e-5 * full.abs().max()


@torch.inference_mode()
def test_rows_selected_and_grown_keep_their_past():
    config = tiny(max_position_embeddings=1024)
    model = build(config)
    text = torch.randint(0, config.vocab_size, (3, 600))
    full = model(text)
    cache = StaticCache(config, batch=3, limit=1000)
    assert cache.capacity == 256
    model(text[:, :250], cache.begin([(0, 250)] * 3), cache.attends)
    cache.select([2, 0])
    logits = model(text[[2, 0], 250:600], cache.begin([(250, 350)] * 2), cache.attends)
    assert cache.capacity == 1000  # 256, 512, then the limit instead of 1024
    torch.testing.assert_close(logits, full[[2, 0], 250:600], atol=2e-5 * full.abs().max().item(), rtol=0)


def test_a_row_longer_than_the_limit_is_an_error():
    cache = StaticCache(tiny(), batch=1, limit=40)
    with pytest.raises(ValueError, match="41 tokens, more than the context of 40"):
        cache.begin([(40, 1)])


def test_bytes_per_token_are_those_of_the_tensors():
    config = tiny()
    cache = StaticCache(config, batch=1, limit=255, dtype=torch.bfloat16)
    held = sum(t.nbytes for attend in cache.attends for t in (attend.k, attend.v))
    assert held == bytes_per_token(config, torch.bfloat16) * 256


@torch.inference_mode()
def test_what_an_earlier_text_left_behind_is_not_seen():
    config = tiny()
    model = build(config)
    text = torch.randint(0, config.vocab_size, (1, 30))
    cache = StaticCache(config, limit=64)
    model(torch.randint(0, config.vocab_size, (1, 60)), cache.begin([(0, 60)]), cache.attends)
    for attend in cache.attends:
        attend.k[:, 40:] = 1e4  # would drown everything else
    got = model(text, cache.begin([(0, 30)]), cache.attends)
    torch.testing.assert_close(got, model(text), atol=1e-4, rtol=1e-4)


class Graphs:
    """A torch.compile backend that keeps the graphs it is given and runs them as they are."""

    def __init__(self) -> None:
        self.seen: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        from torch._functorch.aot_autograd import aot_module_simplified

        def keep(inner: torch.fx.GraphModule, _: list[torch.Tensor]):
            self.seen.append(inner)
            return inner.forward

        return aot_module_simplified(graph, inputs, fw_compiler=keep)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.inference_mode()
def test_fifty_mixed_steps_compile_to_at_most_two_graphs_without_a_clone_of_k_or_v():
    torch._dynamo.reset()
    config = tiny(hidden_size=80, num_hidden_layers=2)  # a size that no other dimension shares
    model, plain = build(config), build(config)
    graphs = Graphs()
    for n, layer in enumerate(model.model.layers):
        assert isinstance(model.model.layers, nn.ModuleList)
        model.model.layers[n] = torch.compile(layer, backend=graphs, dynamic=True, fullgraph=True)
    text = torch.randint(0, config.vocab_size, (2, 128))
    full = plain(text)
    cache = StaticCache(config, batch=2, limit=128)
    assert len(MIXED) == 50
    for rows in steps(MIXED):
        logits = model(rectangle(text, rows), cache.begin(rows), cache.attends)
        for n, (cached, now) in enumerate(rows):
            assert now == 0 or (logits[n, :now] - full[n, cached : cached + now]).abs().max() <= 1e-4
    assert 1 <= len(graphs.seen) <= 2
    for graph in graphs.seen:
        nodes = list(graph.graph.nodes)
        written = [node for node in nodes if "index_put" in str(node.target)]
        assert len(written) == 2  # k and v
        read = [node for node in nodes if "scaled_dot_product" in str(node.target)]
        slots = {str(node.args[0].meta["val"].shape[1]) for node in written}
        slots |= {str(node.args[1].meta["val"].shape[2]) for node in read}
        clones = [node for node in nodes if "clone" in str(node.target)]
        assert not [node for node in clones if slots & set(map(str, node.meta["val"].shape))]


@torch.inference_mode()
def test_where_a_graph_may_read_it_an_attend_holds_tensors_only_and_steps_of_one_shape_are_written_in_place(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(static, "may_compile", lambda: True)
    config = tiny()
    model = build(config)
    cache = StaticCache(config, batch=2, limit=128)
    model(torch.zeros(2, 5, dtype=torch.long), cache.begin([(0, 5), (0, 3)]), cache.attends)
    ids = torch.zeros(2, 1, dtype=torch.long)
    model(ids, cache.begin([(5, 1), (3, 1)]), cache.attends)
    before = [{name: x.data_ptr() for name, x in vars(attend).items()} for attend in cache.attends]
    step = {"rows", "positions", "lazy_mask", "slots", "pages", "starts", "lengths"}
    assert set(before[0]) == {"k", "v", *step}
    model(ids, cache.begin([(6, 1), (4, 1)]), cache.attends)
    assert [{name: x.data_ptr() for name, x in vars(attend).items()} for attend in cache.attends] == before
    assert cache.attends[0].positions.tolist() == [[6], [4]]
    layouts = {(x.shape, x.stride(), x.dtype) for attend in cache.attends for x in (attend.k, attend.v)}
    assert len(layouts) == 1


@pytest.mark.parametrize("native", [True, False])
@torch.inference_mode()
def test_a_mask_is_made_once_for_all_layers_where_they_ask_for_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native and kernels.native() is not None:
        pytest.skip("no native code here")
    if not native:
        monkeypatch.setattr(kernels, "runs", lambda x: False)
    monkeypatch.setattr(static, "may_compile", lambda: False)
    made, mask_of = [], static.mask_of
    monkeypatch.setattr(static, "mask_of", lambda *args, **rest: made.append(args) or mask_of(*args, **rest))
    config = tiny(head_dim=32)
    model, cache = build(config), StaticCache(config, batch=2, limit=128)
    for n, rows in enumerate(([(0, 3), (0, 2)], [(3, 1), (2, 1)]), 1):
        ids = torch.zeros(2, max(now for _, now in rows), dtype=torch.long)
        model(ids, cache.begin(rows), cache.attends)
        assert len(made) == (0 if native else n)
    assert cache.attends[0].mask is cache.attends[-1].mask
    assert (cache.attends[0].mask == 0).sum(-1)[:, 0].tolist() == [[4] * cache.groups, [3] * cache.groups]


@torch.inference_mode()
def test_a_compiler_that_comes_between_two_steps_of_one_shape_finds_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = StaticCache(tiny(), batch=1, limit=16)
    monkeypatch.setattr(static, "may_compile", lambda: False)
    cache.begin([(4, 1)])
    assert isinstance(cache.attends[0].lazy_mask, static.LazyMask)
    monkeypatch.setattr(static, "may_compile", lambda: True)
    cache.begin([(5, 1)])
    found = {attend.lazy_mask for attend in cache.attends}
    assert len(found) == 1 and all(isinstance(mask, torch.Tensor) for mask in found)
    assert (cache.attends[0].mask == 0).sum(-1).unique().tolist() == [6]
    monkeypatch.setattr(static, "may_compile", lambda: False)
    cache.begin([(6, 1)])
    assert (cache.attends[0].mask == 0).sum(-1).unique().tolist() == [7]


def test_a_cache_that_is_dropped_is_gone_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigabytes must not wait for Python to look for cycles."""
    monkeypatch.setattr(static, "may_compile", lambda: False)
    cache = StaticCache(tiny(), batch=1, limit=16)
    cache.begin([(0, 3)])
    gone, keys = weakref.ref(cache), weakref.ref(cache.attends[0].k)
    with uncollected():
        del cache
        assert gone() is None and keys() is None


@pytest.mark.parametrize("native", [True, False])
@torch.inference_mode()
def test_blocks_of_queries_see_all_that_stands_before_them(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of several blocks, beside a longer text and a shorter one, up to the last slot of the cache."""
    if not native:
        monkeypatch.setattr(kernels, "runs", lambda x: False)
    config = tiny()
    model, text = build(config), torch.randint(0, config.vocab_size, (3, 400))
    full, cache = model(text), StaticCache(config, batch=3, limit=400)
    done = [0, 0, 0]
    for now in ([100, 7, 0], [300, 130, 129], [0, 263, 271]):
        rows = list(zip(done, now, strict=True))
        logits = model(rectangle(text, rows), cache.begin(rows), cache.attends)
        for n, (cached, more) in enumerate(rows):
            torch.testing.assert_close(
                logits[n, :more], full[n, cached : cached + more], atol=1e-4, rtol=1e-4
            )
        done = [cached + more for cached, more in rows]
    assert done == [400, 400, 400]
