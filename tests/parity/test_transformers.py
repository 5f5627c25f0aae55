"""Rung one of the ladder: the same random weights give the same logits here and in transformers."""

import pytest
import torch
from peers import VARIANTS, tiny, twins

from pureqwen.model import PackedAttend

pytest.importorskip("transformers", reason="parity needs transformers (make setup)")

IDS = torch.tensor(
    [[3, 17, 250, 9, 9, 101, 44, 7, 212, 63, 5, 88], [200, 1, 2, 3, 77, 150, 31, 8, 64, 19, 20, 21]]
)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a share of the logits' scale."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_logits_equal_transformers_in_float32(variant):
    ours, theirs = twins(tiny(**VARIANTS[variant]))
    assert relative(ours(IDS), theirs(input_ids=IDS).logits) <= 2e-5


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_bfloat16_error_is_at_most_a_tenth_above_transformers_own(variant):
    """Over four models: where rounding flips an expert the error of a single one is a matter of luck."""
    ours, theirs = 0.0, 0.0
    for seed in range(4):
        config = tiny(**VARIANTS[variant], initializer_range=0.1)
        us, them = twins(config, seed=seed)
        ids = torch.randint(0, config.vocab_size, (4, 48), generator=torch.Generator().manual_seed(seed))
        exact = them(input_ids=ids).logits
        ours += (us.bfloat16()(ids) - exact).square().mean().item()
        theirs += (them.bfloat16()(input_ids=ids).logits.float() - exact).square().mean().item()
    assert 0 < ours**0.5 <= 1.1 * theirs**0.5


@torch.inference_mode()
def test_padded_batch_equals_transformers_with_an_attention_mask():
    ours, theirs = twins(tiny())
    padded, lengths = IDS.clone(), torch.tensor([12, 7])
    padded[1, 7:] = 0
    mask = torch.arange(12) < lengths[:, None]
    expected = theirs(input_ids=padded, attention_mask=mask.long()).logits
    got = ours(padded)
    assert relative(got[mask], expected[mask]) <= 2e-5


@pytest.mark.parametrize("variant", ["dense tied", "moe"])
@torch.inference_mode()
def test_packed_documents_do_not_see_one_another(variant):
    config = tiny(**VARIANTS[variant])
    ours, theirs = twins(config)
    documents = [IDS[0, :5], IDS[1, :7], IDS[0, 5:9]]
    lengths = [len(d) for d in documents]
    positions = torch.cat([torch.arange(n) for n in lengths])
    attends = [PackedAttend.from_lengths(lengths)] * config.num_hidden_layers
    packed = ours(torch.cat(documents), positions, attends).split(lengths)
    for got, document in zip(packed, documents, strict=True):
        assert relative(got, theirs(input_ids=document[None]).logits[0]) <= 2e-5


@torch.inference_mode()
def test_packed_rows_in_a_batch_equal_packed_rows_alone():
    config = tiny()
    ours, _ = twins(config)
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 8 + [1] * 4])
    together = ours(IDS, attends=[PackedAttend(documents)] * config.num_hidden_layers)
    for row in range(2):
        alone = ours(IDS[row], attends=[PackedAttend(documents[row])] * config.num_hidden_layers)
        assert relative(together[row], alone) <= 2e-5


@torch.inference_mode()
def test_logits_are_computed_for_the_positions_asked_for_only():
    ours, _ = twins(tiny())
    seen = []
    ours.lm_head.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[:-1].numel()))
    every = ours(IDS)
    last = ours(IDS, keep=(torch.arange(2), torch.tensor([11, 6])))
    assert seen == [24, 2]
    torch.testing.assert_close(last, every[torch.arange(2), torch.tensor([11, 6])])


@pytest.mark.parametrize(
    "gradient_of", ["model.layers.1.mlp", "model.embed_tokens.weight", "model.layers.0.self_attn"]
)
def test_gradients_equal_transformers(gradient_of):
    ours, theirs = twins(tiny())
    targets = IDS[:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(ours(IDS)[:, :-1].flatten(0, 1), targets)
    loss.backward()
    theirs(input_ids=IDS, labels=IDS).loss.backward()
    expected = {n: p.grad for n, p in theirs.named_parameters() if n.startswith(gradient_of)}
    assert expected
    for name, parameter in ours.named_parameters():
        if name in expected:
            assert relative(parameter.grad, expected[name]) <= 1e-4, name
