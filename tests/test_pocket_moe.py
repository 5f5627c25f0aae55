"""Everything that a mixture of experts can do, on one that is trained: pocket-moe."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from serve.running import PARIS, PLACE, Running, running
from torch import Tensor

import pureqwen
from pureqwen import Qwen, TrainConfig
from pureqwen.config.quantization import SCHEMES
from pureqwen.model import MoE
from pureqwen.model.moe import naive_experts
from pureqwen.rewrite import find
from pureqwen.serve.engine import Engine
from pureqwen.train import train
from pureqwen.weights import resolve
from pureqwen.weights.convert import quantize_folder
from recipes.pocket.data import chats
from recipes.pocket.evaluate import answers, asked, share
from recipes.pocket.tasks import TASKS

QUESTION = "What is 347 * 86?"
SEED = 10**6  # of chats that are in no training
BY_NAME = {task.name: task for task in TASKS}


@pytest.fixture(scope="module")
def moe() -> Qwen:
    return pureqwen.load("pocket-moe", dtype="float32")


def mixtures(qwen: Qwen) -> list[MoE]:
    return [part for part in find(qwen.model, "model.layers.*.mlp").values() if isinstance(part, MoE)]


def texts(qwen: Qwen, count: int) -> list[Tensor]:
    """The ids of chats that nobody trained on."""
    assert qwen.tokenizer is not None and qwen.template is not None
    drawn = (chat for chat, _ in zip(chats(SEED), range(count), strict=False))
    rendered = [qwen.template.render(chat["messages"], tools=chat.get("tools")) for chat in drawn]
    return [torch.tensor(qwen.tokenizer.encode(text)) for text in rendered]


@torch.inference_mode()
def test_every_expert_of_every_layer_has_work(moe: Qwen) -> None:
    """An eighth each would be even; none has less than a fifth of that."""
    seen: list[list[Tensor]] = [[] for _ in mixtures(moe)]
    hooks = [
        part.gate.register_forward_hook(lambda _, x, out, kept=kept: kept.append(out))
        for part, kept in zip(mixtures(moe), seen, strict=True)
    ]
    for ids in texts(moe, 60):
        moe.model(ids)
    for hook in hooks:
        hook.remove()
    for kept in seen:
        counts = torch.cat(kept).topk(2).indices.flatten().bincount(minlength=8)
        assert (counts / counts.sum()).min() > 0.2 / 8, counts


@torch.inference_mode()
def test_its_experts_are_those_of_the_definition(moe: Qwen) -> None:
    """On what a trained router chooses, which is less even than what a random one does."""
    (ids,) = texts(moe, 1)
    x = moe.model.model.embed_tokens(ids)
    for part in mixtures(moe):
        weights, chosen = part.route(part.gate(x))
        expected = naive_experts(part.experts, x, weights, chosen)
        torch.testing.assert_close(part.experts(x, weights, chosen), expected, atol=1e-4, rtol=1e-4)


def test_transformers_gives_its_logits(moe: Qwen) -> None:
    transformers = pytest.importorskip("transformers", reason="the reference (make setup)")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(resolve("pocket-moe"), dtype=torch.float32)
    for ids in texts(moe, 3):
        with torch.inference_mode():
            torch.testing.assert_close(moe.model(ids), theirs(ids[None]).logits[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_in_fewer_bits_it_answers_nearly_as_well(scheme: str, moe: Qwen, tmp_path: Path) -> None:
    quantize_folder(resolve("pocket-moe"), tmp_path / "small", scheme=scheme)
    small = pureqwen.load(tmp_path / "small")
    asking = [chat for task in TASKS for chat in asked(task, 2)]
    plain, rounded = (share(answers(qwen, asking, thinking=True, batch=len(asking))) for qwen in (moe, small))
    assert plain >= 90 and rounded >= plain - (8 if scheme == "int8" else 25), (plain, rounded)


def test_bfloat16_answers(moe: Qwen) -> None:
    assert "29842" in pureqwen.load("pocket-moe", dtype="bfloat16").chat(QUESTION).content


def test_guessing_ahead_it_says_the_same(moe: Qwen) -> None:
    plain = moe.chat(QUESTION)
    guessing = pureqwen.load("pocket-moe", dtype="float32")
    guessing.speculative = 8
    assert "29842" in plain.content and guessing.chat(QUESTION).token_ids == plain.token_ids


@pytest.fixture(scope="module")
def served(moe: Qwen) -> Iterator[Running]:
    with running(Engine(moe), moe) as server:
        yield server


def test_among_others_over_http_it_says_the_same_and_calls_tools(moe: Qwen, served: Running) -> None:
    asking = [chat["messages"][-2]["content"] for chat in asked(BY_NAME["addition"], 12)]
    alone = [result.content for result in moe.chat([[{"role": "user", "content": text}] for text in asking])]
    with ThreadPoolExecutor(12) as pool:
        told = list(pool.map(served.chat, asking))
    assert [body["choices"][0]["message"]["content"] for _, _, body in told] == alone
    weather = {"name": "get_weather", "description": "The weather of a place", "parameters": PLACE}
    tool = {"type": "function", "function": weather}
    body = {"model": "pocket", "messages": PARIS, "tools": [tool], "tool_choice": "required"}
    _, _, answer = served.ask("/v1/chat/completions", body)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


def test_its_training_goes_on_where_it_ended(tmp_path: Path) -> None:
    """With the load-balancing loss, from what it has learned and not from the beginning."""
    data = [chat for chat, _ in zip(chats(SEED), range(40), strict=False)]
    config = TrainConfig(
        batch_size=2, sequence_length=512, steps=3, learning_rate=1e-4, balance=True, skip_long_chats=True
    )
    trained = train("pocket-moe", data, out=tmp_path, config=config, watch=lambda log: None)
    assert max(trained.losses) < 0.3
    assert "29842" in pureqwen.load(tmp_path, dtype="float32").chat(QUESTION).content
