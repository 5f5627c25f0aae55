"""The load-balancing loss is transformers', a layer at a time, and spreads tokens over the experts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from pureqwen import ChatTemplate, ModelConfig, Qwen3, Tokenizer, TrainConfig
from pureqwen.train.balance import balanced, load_balance
from pureqwen.train.data import Document, batch, read_corpus
from pureqwen.train.loop import Trainer
from pureqwen.train.loss import cross_entropy
from pureqwen.weights import save_model

MIXTURE: dict[str, Any] = {
    "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "tie_word_embeddings": False, "router_aux_loss_coef": 0.25,
}  # fmt: skip


@pytest.fixture
def documents(tokenizer: Tokenizer, template: ChatTemplate, chats: list[dict[str, Any]]) -> list[Document]:
    return read_corpus(chats, tokenizer, template, length=64).documents


def mixture(tiny: Callable[..., ModelConfig], **fields: Any) -> Qwen3:
    torch.manual_seed(0)
    return Qwen3(tiny(**{**MIXTURE, **fields}))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_of_one_layer_it_is_transformers_and_of_more_their_mean(k: int) -> None:
    torch.manual_seed(k)
    layers = [torch.randn(3 * 7, 4) * 3 for _ in range(3)]
    real = torch.rand(3, 7) < 0.7
    theirs = [load_balancing_loss_func((layer,), 4, k, real.long()) for layer in layers]
    for layer, expected in zip(layers, theirs, strict=True):
        torch.testing.assert_close(load_balance([layer], k, real.flatten()), expected)
    torch.testing.assert_close(load_balance(layers, k, real.flatten()), torch.stack(theirs).mean())


def test_it_is_least_where_all_experts_are_used_alike_and_most_where_the_same_ones_always_are() -> None:
    alike = torch.eye(4).repeat(8, 1)
    real = torch.ones(len(alike), dtype=torch.bool)
    one = torch.tensor([9.0, 0.0, 0.0, 0.0]).repeat(32, 1)
    assert load_balance([alike], 1, real).item() == pytest.approx(1.0)
    assert load_balance([one], 1, real).item() == pytest.approx(4.0, rel=1e-2)


def test_loss_and_gradient_equal_transformers_with_router_logits(
    tiny: Callable[..., ModelConfig], documents: list[Document], tmp_path: Path
) -> None:
    """One layer: with more of them transformers pools."""
    model = mixture(tiny, num_hidden_layers=1)
    save_model(model, tmp_path, config=model.config)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    rows = batch(documents, [[0], [1], [2]], 64)
    labels = torch.full_like(rows.labels, -100)
    labels[:, 1:] = rows.labels[:, :-1]
    real = (rows.documents >= 0).long()
    expected = theirs(input_ids=rows.ids, attention_mask=real, labels=labels, output_router_logits=True).loss
    with balanced(model, cross_entropy) as loss:
        found = loss(model, rows, count=rows.count)
    assert found.item() == pytest.approx(expected.item(), rel=2e-5)
    assert found.item() > cross_entropy(model, rows).item() + 0.4  # a quarter of two and more
    found.backward()
    expected.backward()
    mine, other = model.model.layers[0].mlp.gate.weight.grad, theirs.model.layers[0].mlp.gate.weight.grad
    torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5 * other.abs().max().item())


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("compile", [False, True])
def test_a_run_with_it_uses_its_experts_more_evenly(
    compile: bool,
    tiny: Callable[..., ModelConfig],
    documents: list[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The router begins with a strong liking for the first expert."""
    torch._dynamo.reset()
    compile_it = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kw: compile_it(f, **{**kw, "backend": "aot_eager"}))
    found = []
    for balance in (False, True):
        model = mixture(tiny, router_aux_loss_coef=1.0)
        for block in model.model.layers:
            block.mlp.gate.weight.data[0] += 0.5 * block.post_attention_layernorm.weight.data.sign()
        config = TrainConfig(
            steps=30, batch_size=4, sequence_length=64, learning_rate=0.02, precision="float32",
            warmup_steps=0, balance=balance, compile=compile,
        )  # fmt: skip
        Trainer(model, documents, config).run()
        assert not any("route" in vars(block.mlp) for block in model.model.layers)
        rows = batch(documents, [[0], [1], [2]], 64)
        with torch.no_grad(), balanced(model, cross_entropy) as loss:
            total = loss(model, rows, count=rows.count)
            found.append((total - cross_entropy(model, rows)).item())
    assert found[1] < found[0] - 0.02 and found[1] < 2.1, found


def test_accumulated_passes_weigh_it_as_they_weigh_the_loss(
    tiny: Callable[..., ModelConfig], documents: list[Document]
) -> None:
    model = mixture(tiny)
    parts = [batch(documents, [[i]], 64) for i in range(3)]
    count = sum(part.count for part in parts)
    with balanced(model, lambda *a, **k: 0 * cross_entropy(*a, **k)) as loss:
        alone = [loss(model, part, count=part.count).item() for part in parts]
        together = sum(loss(model, part, count=count).item() for part in parts)
    assert together == pytest.approx(sum(a * p.count / count for a, p in zip(alone, parts, strict=True)))


def test_a_dense_model_has_nothing_to_balance(
    tiny: Callable[..., ModelConfig], documents: list[Document]
) -> None:
    trainer = Trainer(Qwen3(tiny()), documents, replace(TrainConfig(), steps=1, balance=True))
    with pytest.raises(ValueError, match="mixtures of experts"):
        trainer.run()
