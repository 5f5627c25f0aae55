"""A whole run: it learns, it goes on exactly where it stopped, and its result is a checkpoint."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoModelForCausalLM

import pureqwen
from pureqwen import ModelConfig, Qwen3, TrainConfig
from pureqwen.rewrite import quantize
from pureqwen.train import Diverged, StepLog, train
from pureqwen.train.checkpoint import checkpoints
from pureqwen.train.data import read_corpus
from pureqwen.train.loop import Trainer

Chats = list[dict[str, Any]]
FAST = TrainConfig(
    steps=8,
    batch_size=2,
    sequence_length=64,
    learning_rate=1e-2,
    warmup_steps=2,
    save_every=4,
    precision="float32",
)


def quiet(log: StepLog) -> None:
    """Shows nothing."""


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_batch_is_learned_by_heart_and_the_result_answers(
    optimizer: str, tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    config = replace(FAST, optimizer=optimizer, steps=90, batch_size=4, sequence_length=128, save_every=0)
    shape = tiny(initializer_range=0.02, hidden_size=64)
    result = train(shape, chats[:4], out=tmp_path, config=config, tokenizer=words, watch=quiet)
    assert result.losses[0] > 5 and result.losses[-1] < 0.1
    qwen = pureqwen.load(tmp_path)
    for record in chats[:4]:
        user, reply = record["messages"]
        answer = qwen.chat([user], thinking="reasoning_content" in reply, temperature=0, max_tokens=40)
        assert (answer.content, answer.finish_reason) == (reply["content"], "stop")
        assert answer.reasoning == reply.get("reasoning_content")


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_compiled_blocks_have_the_same_losses_and_a_watch_may_ask_the_model(
    tiny: Callable[..., ModelConfig],
    chats: Chats,
    words: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch._dynamo.reset()
    counter, compile_it = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kw: compile_it(f, **{**kw, "backend": counter}))
    model = Qwen3(tiny(initializer_range=0.02))
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def ask(_: StepLog) -> None:
        with torch.no_grad():
            model(torch.arange(7))

    settings = {"tokenizer": words, "watch": ask}
    compiled = train(model, chats, out=tmp_path / "a", config=replace(FAST, compile=True), **settings)
    assert counter.frame_count == 1
    model.load_state_dict(start)
    plain = train(model, chats, out=tmp_path / "b", config=FAST, **settings)
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("moe", [False, True])
def test_a_resumed_run_has_the_losses_and_weights_of_one_that_never_stopped(
    moe: bool, optimizer: str, tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    settings = replace(FAST, optimizer=optimizer)
    experts = {
        "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "tie_word_embeddings": False,
    }  # fmt: skip
    shape = tiny(**experts) if moe else tiny()
    whole = train(shape, chats, out=tmp_path / "whole", config=settings, tokenizer=words, watch=quiet)

    def stop(log: StepLog) -> None:
        if log.step == 6:  # two steps behind the checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(shape, chats, out=tmp_path / "cut", config=settings, tokenizer=words, watch=stop)
    assert [p.name for p in checkpoints(tmp_path / "cut")] == ["step-000004"]
    rest = train(shape, chats, out=tmp_path / "cut", config=settings, tokenizer=words, watch=quiet)
    assert rest.losses == whole.losses[4:]
    one, other = (pureqwen.load(tmp_path / name).model.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_does_not_go_on_with_other_data_or_settings(
    tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    train(tiny(), chats, out=tmp_path, config=FAST, tokenizer=words, watch=quiet)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.01 and is 0\.02"):
        train(
            tiny(),
            chats,
            out=tmp_path,
            config=replace(FAST, learning_rate=0.02),
            tokenizer=words,
            watch=quiet,
        )
    with pytest.raises(ValueError, match="other data"):
        train(tiny(), chats[1:], out=tmp_path, config=FAST, tokenizer=words, watch=quiet)
    done = train(tiny(), chats, out=tmp_path, config=replace(FAST, log_every=3), tokenizer=words, watch=quiet)
    assert done.losses == ()


def test_a_half_written_checkpoint_is_none(
    tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints" / "step-000004.part").mkdir(parents=True)
    assert checkpoints(tmp_path) == []
    train(tiny(), chats, out=tmp_path, config=replace(FAST, keep_checkpoints=1), tokenizer=words, watch=quiet)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000008"]


def test_the_result_loads_in_transformers_and_stops_at_the_end_of_turn(
    tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    train(tiny(torch_dtype="bfloat16"), chats, out=tmp_path, config=FAST, tokenizer=words, watch=quiet)
    qwen = pureqwen.load(tmp_path)
    assert qwen.model.lm_head.weight.dtype == torch.bfloat16
    assert qwen.eos_ids == frozenset({qwen.tokenizer.special_ids["<|im_end|>"]})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(ids).logits,
            qwen.model.float()(ids),
            rtol=0,
            atol=2e-5 * theirs(ids).logits.abs().max().item(),
        )


def test_training_goes_on_from_a_checkpoint_and_leaves_its_file_as_it_was(
    tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    """Loaded weights are views of the mapped file: an optimizer must not write there."""
    first = train(tiny(), chats, out=tmp_path / "one", config=FAST, tokenizer=words, watch=quiet)
    path = tmp_path / "one" / "generation_config.json"
    path.write_text(json.dumps({"temperature": 0.5, "eos_token_id": 7}), encoding="utf-8")
    before = (tmp_path / "one" / "model.safetensors").read_bytes()
    second = train(tmp_path / "one", chats, out=tmp_path / "two", config=FAST, watch=quiet)
    assert second.losses[0] < 0.8 * first.losses[0]
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == before
    end = pureqwen.Tokenizer.from_pretrained(words).special_ids["<|im_end|>"]
    written = json.loads((tmp_path / "two" / "generation_config.json").read_text(encoding="utf-8"))
    assert written == {"temperature": 0.5, "eos_token_id": [end, 7]}


def test_a_config_file_begins_with_fresh_weights(
    tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny().to_dict()), encoding="utf-8")
    config = replace(FAST, steps=1, save_every=0)
    losses = [
        train(start, chats, out=tmp_path / name, config=config, tokenizer=words, watch=quiet).losses
        for name, start in (("a", path), ("b", str(tmp_path)), ("c", tiny()))
    ]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "model.safetensors.index.json"])
def test_weights_that_are_not_read_are_no_reason_to_begin_with_fresh_ones(
    name: str, tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny().to_dict()), encoding="utf-8")
    (tmp_path / name).write_text(
        '{"weight_map": {"model.norm.weight": "lost.safetensors"}}', encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"pickle|GGUF|lost\.safetensors"):
        train(tmp_path, chats, out=tmp_path / "out", config=FAST, tokenizer=words, watch=quiet)


def test_a_run_does_not_go_on_as_that_of_another_model_of_its_shape(
    tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        config = replace(FAST, steps=1, seed=seed)
        train(tiny(), chats, out=tmp_path / name, config=config, tokenizer=words, watch=quiet)
    train(tmp_path / "a", chats, out=tmp_path / "out", config=FAST, watch=quiet)
    with pytest.raises(ValueError, match="began with other weights"):
        train(tmp_path / "b", chats, out=tmp_path / "out", config=FAST, watch=quiet)
    train(tmp_path / "a", chats, out=tmp_path / "out", config=FAST, watch=quiet)


def test_a_bad_generation_config_is_said_before_the_first_step(
    tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    train(tiny(), chats, out=tmp_path / "a", config=replace(FAST, steps=1), tokenizer=words, watch=quiet)
    (tmp_path / "a" / "generation_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"generation_config\.json must hold a JSON object"):
        train(tmp_path / "a", chats, out=tmp_path / "b", config=FAST, watch=quiet)
    assert not (tmp_path / "b").exists()


def test_an_epoch_is_all_rows_and_not_only_those_that_fill_a_batch(
    model: Qwen3, tokenizer: pureqwen.Tokenizer
) -> None:
    texts = [{"text": "x" * 60} for _ in range(15)]
    documents = read_corpus(texts, tokenizer, None, length=64).documents
    config = replace(FAST, steps=None, epochs=1, batch_size=8)
    assert Trainer(model, documents, config).steps == 2
    assert Trainer(model, documents, replace(config, epochs=2)).steps == 4


def test_what_is_missing_is_said(
    tiny: Callable[..., ModelConfig], model: Qwen3, chats: Chats, words: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="pass tokenizer="):
        train(tiny(), chats, out=tmp_path, config=FAST)
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        train(model, chats, out=tmp_path, config=FAST, tokenizer=tmp_path)
    with pytest.raises(ValueError, match=r"\d+ ids and the model 700 rows"):
        train(tiny(vocab_size=700), chats, out=tmp_path, config=FAST, tokenizer=words)


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_do(
    model: Qwen3, chats: Chats, words: Path, tmp_path: Path
) -> None:
    with torch.no_grad():
        model.model.norm.weight.fill_(float("inf"))
    with pytest.raises(Diverged, match=r"step 1: the loss is nan.*lower learning_rate"):
        train(model, chats, out=tmp_path, config=FAST, tokenizer=words, watch=quiet)
    assert not (tmp_path / "model.safetensors").exists()


def test_the_log_stays_and_a_pipe_gets_plain_lines(
    tiny: Callable[..., ModelConfig],
    chats: Chats,
    words: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = replace(FAST, log_every=4)
    train(tiny(), chats, out=tmp_path, config=config, tokenizer=words)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8] and lines[0]["loss"] > lines[1]["loss"]
    shown = capfd.readouterr()
    assert shown.out == "" and "\x1b" not in shown.err
    assert "step 8/8" in shown.err and "tokens/s" in shown.err


def test_a_torn_line_of_the_log_does_not_keep_a_run_from_going_on(
    tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    """What a full disk or a power cut leaves: the log decides nothing."""
    config, log = replace(FAST, log_every=4), tmp_path / "log.jsonl"
    train(tiny(), chats, out=tmp_path, config=config, tokenizer=words)
    log.write_bytes(log.read_bytes()[:-20])
    train(tiny(), chats, out=tmp_path, config=config, tokenizer=words)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [4]


def test_a_quantised_model_is_not_trained(
    tiny: Callable[..., ModelConfig], chats: Chats, words: Path, tmp_path: Path
) -> None:
    model = quantize(Qwen3(tiny()), "int8")
    with pytest.raises(ValueError, match="quantised model can't be trained"):
        train(model, chats, out=tmp_path, config=FAST, tokenizer=words, watch=quiet)
