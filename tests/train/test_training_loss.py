"""The loss is transformers' loss, and several passes add up to one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pureqwen import ChatTemplate, ModelConfig, Qwen3, Tokenizer, TrainConfig
from pureqwen.train.data import Document, batch, pack, read_corpus
from pureqwen.train.loop import Trainer, uses_bfloat16
from pureqwen.train.loss import cross_entropy
from pureqwen.train.optimizer import make_optimizers
from pureqwen.weights import save_model


@pytest.fixture
def documents(tokenizer: Tokenizer, template: ChatTemplate, chats: list[dict[str, Any]]) -> list[Document]:
    return read_corpus(chats, tokenizer, template, length=64).documents


def test_the_loss_and_its_gradient_equal_transformers_on_the_same_batch(
    model: Qwen3, documents: list[Document], tmp_path: Path
) -> None:
    save_model(model, tmp_path, config=model.config)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    rows = batch(documents, [[0], [1], [2]], 64)  # one document a row: transformers knows no boundaries
    loss = cross_entropy(model, rows)
    labels = torch.full_like(rows.labels, -100)
    labels[:, 1:] = rows.labels[:, :-1]  # transformers shifts by itself
    expected = theirs(input_ids=rows.ids, attention_mask=(rows.documents >= 0).long(), labels=labels).loss
    assert loss.item() == pytest.approx(expected.item(), rel=2e-5)
    loss.backward()
    expected.backward()
    mine = model.model.layers[0].mlp.gate_proj.weight.grad
    other = theirs.model.layers[0].mlp.gate_proj.weight.grad
    torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5 * other.abs().max().item())


def test_accumulated_passes_take_the_step_of_one_large_batch(
    tiny: Callable[..., ModelConfig], documents: list[Document]
) -> None:
    """Passes hold different numbers of learned tokens: a mean of their means would be another step."""
    models, losses = [], []
    for size, passes in ((4, 1), (1, 4)):
        torch.manual_seed(0)
        model = Qwen3(tiny())
        config = TrainConfig(
            steps=3,
            batch_size=size,
            accumulation=passes,
            sequence_length=64,
            precision="float32",
            warmup_steps=0,
        )
        losses.append(Trainer(model, documents, config).run())
        models.append(model)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_pitfall_10_logits_are_computed_for_learned_positions_only(
    model: Qwen3, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: (seen.append(hidden.shape), logits(hidden))[1])
    rows = batch(documents, pack(documents, 64), 64)
    cross_entropy(model, rows)
    assert seen == [(rows.count, 32)] and rows.count < rows.ids.numel() / 2


def test_norms_and_biases_are_not_decayed(tiny: Callable[..., ModelConfig]) -> None:
    model = Qwen3(tiny(attention_bias=True))
    (adamw,) = make_optimizers(model, TrainConfig(weight_decay=0.3))
    decayed, kept = adamw.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(name.endswith(("norm.weight", "bias")) for name in (names[id(p)] for p in kept["params"]))
    assert not any("norm" in name or "bias" in name for name in (names[id(p)] for p in decayed["params"]))
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_bfloat16_is_not_taken_by_itself_where_it_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor with AVX2 alone, training in bfloat16 was 50 times slower than in float32."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not uses_bfloat16("auto", cpu) and uses_bfloat16("bfloat16", cpu)
    assert uses_bfloat16("auto", torch.device("cuda"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert uses_bfloat16("auto", cpu) and not uses_bfloat16("float32", cpu)
