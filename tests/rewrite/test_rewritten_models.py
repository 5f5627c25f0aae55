"""A model with a part of one's own: saved, loaded and trained like any other, and attending as one likes."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import VARIANTS, build, tiny
from torch import Tensor, nn

import pureqwen
from pureqwen import Qwen, Qwen3, TrainConfig
from pureqwen.cache import StaticAttend, StaticCache
from pureqwen.config import ModelConfig
from pureqwen.model import CausalAttend, PackedAttend
from pureqwen.rewrite import replace
from pureqwen.train import StepLog, Trainer, cross_entropy
from pureqwen.train.data import batch, read_corpus
from pureqwen.weights import WeightError, load_model, load_weights, save_model

IDS = torch.arange(24).view(2, 12) * 7 % 256
WORDS = Path(pureqwen.__file__).parent / "pocket"
CHATS = [
    {"messages": [{"role": "user", "content": f"{n} + 1"}, {"role": "assistant", "content": f"{n + 1}."}]}
    for n in range(12)
]
FAST = TrainConfig(
    steps=8, batch_size=2, sequence_length=64, warmup_steps=2, save_every=4, precision="float32"
)


class Squared(nn.Module):
    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, size)
        self.down_proj = nn.Linear(size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.up_proj(x).relu().square())
        return out


def squared(model: Qwen3) -> Qwen3:
    return replace(model, "model.layers.*.mlp", lambda path, old: Squared(model.config.hidden_size, 40))


def words_config(**changes: Any) -> ModelConfig:
    size = pureqwen.Tokenizer.from_pretrained(WORDS).vocab_size
    return tiny(vocab_size=size, num_hidden_layers=2, tie_word_embeddings=True, **changes)


def quiet(log: StepLog) -> None:
    """Shows nothing."""


@pytest.mark.parametrize("variant", ["dense tied", "dense untied", "moe", "mixed by mlp_only_layers"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_rewritten_model_comes_back_with_the_same_rewrite(tmp_path: Path, variant: str, dtype: str) -> None:
    config = tiny(**VARIANTS[variant])
    model = squared(build(config))
    save_model(model, tmp_path, config=config)
    again = load_model(tmp_path, config, dtype=dtype, rewrite=squared)
    if dtype == "bfloat16":
        model = model.bfloat16()
    assert list(again.state_dict()) == list(model.state_dict())
    assert torch.equal(again(IDS), model(IDS))
    assert len(list(again.parameters())) == len(list(model.parameters()))  # tied where it was


def test_without_its_rewrite_it_is_refused_and_the_tensors_are_named(tmp_path: Path) -> None:
    config = tiny()
    save_model(squared(build(config)), tmp_path, config=config)
    with pytest.raises(WeightError, match=r"missing: .*gate_proj\.weight; 8 tensors do not .*up_proj\.bias"):
        pureqwen.load(tmp_path)
    save_model(build(config), tmp_path, config=config)
    with pytest.raises(WeightError, match=r"missing: .*up_proj\.bias"):
        pureqwen.load(tmp_path, rewrite=squared)


@pytest.mark.parametrize("wrong", [None, nn.Linear(2, 2)])
def test_a_rewrite_that_returns_no_model_is_refused(tmp_path: Path, wrong: Any) -> None:
    save_model(build(tiny()), tmp_path, config=tiny())
    with pytest.raises(ValueError, match=r"rewrite returned .*: it must return the model"):
        pureqwen.load(tmp_path, rewrite=lambda model: wrong)


class Counted(Squared):
    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__(hidden_size, size)
        self.register_buffer("mean", torch.zeros(size))


def test_a_buffer_is_refused_because_no_checkpoint_would_keep_it(tmp_path: Path) -> None:
    def counted(model: Qwen3) -> Qwen3:
        return replace(model, "model.layers.1.mlp", lambda path, old: Counted(64, 40))

    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.mean: a checkpoint keeps no buffers"):
        save_model(counted(build(tiny())), tmp_path, config=tiny())
    save_model(build(tiny()), tmp_path, config=tiny())
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.mean: a checkpoint keeps no buffers"):
        pureqwen.load(tmp_path, rewrite=counted)


def test_layers_that_share_one_module_or_one_matrix_are_stored_once_and_come_back_shared(
    tmp_path: Path,
) -> None:
    config = tiny()

    def shared(model: Qwen3) -> Qwen3:
        one = Squared(64, 40)
        model.model.layers[1].self_attn.o_proj.weight = model.model.layers[0].self_attn.o_proj.weight
        return replace(model, "model.layers.*.mlp", lambda path, old: one)

    model = shared(build(config))
    save_model(model, tmp_path, config=config)
    again = load_model(tmp_path, config, rewrite=shared)
    assert torch.equal(again(IDS), model(IDS))
    first, second, *_, last = again.model.layers
    assert first.mlp is last.mlp
    assert first.self_attn.o_proj.weight is second.self_attn.o_proj.weight


def test_a_frozen_parameter_is_loaded_frozen(tmp_path: Path) -> None:
    def frozen(model: Qwen3) -> Qwen3:
        model.model.embed_tokens.requires_grad_(False)
        return model

    save_model(build(tiny()), tmp_path, config=tiny())
    again = load_model(tmp_path, tiny(), rewrite=frozen)
    assert [name for name, p in again.named_parameters() if not p.requires_grad] == [
        "model.embed_tokens.weight"
    ]


@pytest.mark.parametrize("variant", ["dense tied", "moe"])
def test_weights_are_copied_into_the_parameters_that_are_there(tmp_path: Path, variant: str) -> None:
    config = tiny(**VARIANTS[variant])
    source, target = squared(build(config)), squared(build(config, seed=8))
    save_model(source, tmp_path, config=config)
    held = list(target.parameters())
    load_weights(target, tmp_path)
    assert all(p is q for p, q in zip(held, target.parameters(), strict=True))
    assert torch.equal(target(IDS), source(IDS))
    with pytest.raises(WeightError, match="do not fit"):
        load_weights(build(config), tmp_path)


def test_a_rewritten_model_is_trained_saved_and_a_run_of_it_goes_on(tmp_path: Path) -> None:
    config = words_config(initializer_range=0.1)
    run = partial(pureqwen.train, config=FAST, tokenizer=WORDS)
    whole = run(squared(build(config)), CHATS, out=tmp_path / "whole", watch=quiet)

    def stop(log: StepLog) -> None:
        if log.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(squared(build(config)), CHATS, out=tmp_path / "cut", watch=stop)
    rest = run(squared(build(config)), CHATS, out=tmp_path / "cut", watch=quiet)
    assert rest.losses == whole.losses[4:]
    ends = [pureqwen.load(tmp_path / name, rewrite=squared).model(IDS) for name in ("whole", "cut")]
    assert torch.equal(*ends)


class Near(StaticAttend):
    """Sees the position itself and the one before."""

    def sees(self) -> Tensor:
        slots = torch.arange(self.mask.shape[-1])
        far = slots < self.positions[..., None] - 1  # (B, S, used)
        groups = self.mask.shape[-2] // far.shape[-2]
        return self.mask.masked_fill(far.repeat_interleave(groups, dim=1)[:, None], float("-inf"))


class PackedNear(PackedAttend):
    def __init__(self, documents: Tensor) -> None:
        super().__init__(documents)
        self.mask = self.mask.triu(-1)


@torch.inference_mode()
def test_attends_of_one_s_own_answer_as_the_full_forward_with_them_does() -> None:
    """The rung: prompt in one piece, then token by token through the cache."""
    config = tiny()
    qwen = Qwen(build(config))
    qwen.attends = lambda: [Near() for _ in range(4)]
    prompt = [3, 17, 250, 9, 101]
    ids = list(prompt)
    for _ in range(24):
        attends = [PackedNear(torch.zeros(len(ids)))] * 4
        best, second = qwen.model(torch.tensor(ids), attends=attends)[-1].topk(2)
        assert best[0] - best[1] > 1e-4
        ids.append(int(second[0]))
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
    assert list(qwen.generate(prompt, **fields).token_ids) == ids[5:]
    batched = qwen.generate([[9, 1, 4], prompt], **fields)
    assert list(batched[1].token_ids) == ids[5:]
    qwen.attends = None  # what the other attends computed is not gone on from
    full = list(qwen.generate(prompt, **fields).token_ids)
    assert full != ids[5:]
    assert full == list(Qwen(build(config)).generate(prompt, **fields).token_ids)


@pytest.mark.parametrize("attends", [[], [StaticAttend()] * 4, [StaticAttend() for _ in range(3)]])
def test_a_cache_wants_one_attend_of_its_own_for_each_layer(attends: list[StaticAttend]) -> None:
    with pytest.raises(ValueError, match="a model of 4 layers needs as many attends"):
        StaticCache(tiny(), limit=8, attends=attends)


def documents(config: ModelConfig) -> list[Any]:
    tokenizer = pureqwen.Tokenizer.from_pretrained(WORDS)
    return read_corpus(CHATS, tokenizer, pureqwen.ChatTemplate.from_pretrained(WORDS), length=64).documents


def test_the_loss_attends_as_it_is_told() -> None:
    config = words_config()
    model, found = build(config), documents(config)
    rows = batch(found, [[0, 1], [2]], 128)
    plain = cross_entropy(model, rows)
    assert torch.equal(plain, cross_entropy(model, rows, attends=lambda d: [PackedAttend(d)] * 2))
    near = cross_entropy(model, rows, attends=lambda d: [PackedNear(d), PackedNear(d)])
    assert not torch.equal(plain, near)
    crossing = cross_entropy(model, rows, attends=lambda d: [CausalAttend(), CausalAttend()])
    assert not torch.equal(plain, crossing)  # the second document of a row saw the first


def test_a_trainer_takes_a_loss_of_one_s_own() -> None:
    config = words_config()
    found = documents(config)
    plain = Trainer(build(config), found, FAST).run()
    near = partial(cross_entropy, attends=lambda d: [PackedNear(d)] * 2)
    assert Trainer(build(config), found, FAST, loss=near).run() != plain
    assert Trainer(build(config), found, FAST, loss=cross_entropy).run() == plain
