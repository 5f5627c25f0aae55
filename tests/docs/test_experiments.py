"""The experiments of docs/change-a-block.md: short, running, right, and shown as they are."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peers import MOE, build, tiny, twins

import pureqwen
from pureqwen import Qwen
from pureqwen.model import PackedAttend
from pureqwen.train import cross_entropy
from pureqwen.train.data import batch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "experiments"
PAGE = ROOT / "docs" / "change-a-block.md"
NAMES = ("swap_mlp", "sliding_window", "router")
POCKET = Path(pureqwen.__file__).parent / "pocket"

Experiment = Callable[[str], ModuleType]


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """`experiment("router")`: the script as a module, its runs cut to three steps of one row."""
    monkeypatch.syspath_prepend(str(FOLDER))
    lab = importlib.import_module("lab")
    monkeypatch.setattr(lab, "STEPS", 3)
    monkeypatch.setattr(lab, "NUM_CHATS", 60)
    monkeypatch.setattr(lab, "BATCH", 1)
    return importlib.import_module


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def size(qwen: Qwen) -> int:
    return sum(parameter.numel() for parameter in qwen.model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_shorter_than_sixty_lines(name: str) -> None:
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) < 60


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_runs_and_every_run_of_a_seed_sees_the_same_chats(
    name: str, experiment: Experiment
) -> None:
    script = experiment(name)
    found = script.experiment(seed=3)
    assert all(len(losses) == 3 for losses in found.curves.values()) and len(found.curves) >= 2
    starts = [losses[0] for losses in found.curves.values()]
    assert max(starts) - min(starts) < 0.2  # fresh, and of the same text
    again = script.experiment(seed=3)
    assert (again.curves, again.shares) == (found.curves, found.shares)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_runs_as_its_page_says_and_learns(name: str) -> None:
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(.+?) +loss +(.+)$", done.stdout, re.MULTILINE)
    assert len(rows) >= 2
    for _, numbers in rows:
        quarters = [float(number) for number in numbers.split()]
        assert len(quarters) == 4 and quarters == sorted(quarters, reverse=True)
        assert quarters[-1] < 0.7 * quarters[0]


def test_the_swapped_mlp_has_as_many_weights_and_begins_beside_the_same_others(
    experiment: Experiment,
) -> None:
    lab, script = experiment("lab"), experiment("swap_mlp")
    plain, swapped = lab.start(seed=5), lab.start(seed=5)
    script.squared(swapped.model)
    assert size(plain) == size(swapped)
    one, other = plain.model.state_dict(), swapped.model.state_dict()
    rest = [name for name in one if ".mlp." not in name]
    assert rest == [name for name in other if ".mlp." not in name]
    assert all(torch.equal(one[name], other[name]) for name in rest)
    width = swapped.model.model.layers[0].mlp.up_proj.weight.std().item()
    assert width == pytest.approx(plain.config.initializer_range, rel=0.05)


def test_the_swapped_model_comes_back_by_its_rewrite_and_by_nothing_else(
    experiment: Experiment, tmp_path: Path
) -> None:
    lab, script = experiment("lab"), experiment("swap_mlp")
    qwen = lab.start()
    script.squared(qwen.model)
    lab.learn(qwen)
    qwen.save(tmp_path)
    again = pureqwen.load(tmp_path, rewrite=script.squared)
    ids = torch.arange(50)
    assert torch.equal(again.model(ids), qwen.model(ids))
    answers = [model.chat("Hello!", temperature=0, max_tokens=5).token_ids for model in (qwen, again)]
    assert answers[0] == answers[1]
    with pytest.raises(ValueError, match="gate_proj"):
        pureqwen.load(tmp_path)


def test_a_window_as_long_as_the_text_is_full_attention_and_a_shorter_one_is_not(
    experiment: Experiment,
) -> None:
    lab, script = experiment("lab"), experiment("sliding_window")
    qwen = lab.start()
    script.check(qwen)
    ids, one = torch.arange(lab.LENGTH), torch.zeros(lab.LENGTH)
    layers = qwen.config.num_hidden_layers
    full = qwen.model(ids, attends=[PackedAttend(one)] * layers)
    near = qwen.model(ids, attends=[script.Window(one, lab.LENGTH - 1)] * layers)
    assert torch.equal(full[:-1], near[:-1])
    assert not torch.equal(full[-1], near[-1])  # the only query with a key that is too far


def test_a_window_of_one_sees_nothing_but_itself(experiment: Experiment) -> None:
    script = experiment("sliding_window")
    documents = torch.tensor([[0, 0, 0, 1, 1, -1]])
    assert torch.equal(script.Window(documents, 1).mask[0, 0], torch.eye(6, dtype=torch.bool))
    expected = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0],
                [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]]  # fmt: skip
    assert script.Window(documents, 2).mask[0, 0].int().tolist() == expected


@pytest.mark.parametrize("window", [1, 3, 7])
@torch.inference_mode()
def test_through_the_cache_a_window_answers_as_the_full_forward_with_it(
    window: int, experiment: Experiment
) -> None:
    script = experiment("sliding_window")
    qwen = Qwen(build(tiny()))
    script.narrow(qwen, window)
    ids = [3, 17, 250, 9, 101, 8, 44, 201, 7]
    prompt, expected = list(ids), []
    for _ in range(24):
        logits = qwen.model(torch.tensor(ids), attends=[script.Window(torch.zeros(len(ids)), window)] * 4)[-1]
        best, second = logits.topk(2).values
        assert best - second > 1e-4
        ids.append(int(logits.argmax()))
        expected.append(logits.log_softmax(-1).max().item())
    batched = qwen.generate([[5, 6], prompt], temperature=0, max_tokens=24, ignore_eos=True, logprobs=True)
    alone = qwen.generate(prompt, temperature=0, max_tokens=24, ignore_eos=True, logprobs=True)
    for found in (alone, batched[1]):
        assert list(found.token_ids) == ids[len(prompt) :]
        assert [token.logprob for token in found.logprobs] == pytest.approx(expected, abs=1e-4)


def test_a_token_meets_as_many_weights_in_the_experts_as_in_the_dense_twin(experiment: Experiment) -> None:
    lab, script = experiment("lab"), experiment("router")
    dense, experts = lab.start(), lab.start(**script.MOE, norm_topk_prob=True)
    c = experts.config
    routers = c.num_hidden_layers * c.hidden_size * c.num_experts
    assert c.num_active_parameters() - dense.config.num_active_parameters() == routers
    assert size(experts) == c.num_parameters()
    shares = script.used(experts)
    assert (len(shares), len(shares[0])) == (c.num_hidden_layers, c.num_experts)
    assert [sum(layer) for layer in shares] == pytest.approx([1] * len(shares))


def test_evenness_adds_its_gradient_and_not_its_value(experiment: Experiment) -> None:
    """Against the formula written out, expert by expert; padding counts for nothing."""
    lab, script = experiment("lab"), experiment("router")
    qwen = lab.start(**script.MOE, norm_topk_prob=True)
    documents = lab.documents(qwen, seed=0, count=6)
    gradients = []
    for length, loss in ((256, script.balanced), (300, script.balanced), (256, cross_entropy)):
        rows = batch(documents, [[0], [1]], length)
        qwen.model.zero_grad()
        value = loss(qwen.model, rows, count=rows.count)
        value.backward()
        gradients.append([layer.mlp.gate.weight.grad.clone() for layer in qwen.model.model.layers])
        assert value.item() == pytest.approx(cross_entropy(qwen.model, rows).item(), rel=1e-6)
    for one, padded in zip(*gradients[:2], strict=True):
        torch.testing.assert_close(one, padded, rtol=1e-4, atol=1e-7)

    rows = batch(documents, [[0], [1]], 256)
    qwen.model.zero_grad()
    _, logits = script.routing(qwen.model, lambda: cross_entropy(qwen.model, rows))
    term = torch.zeros(())
    for layer in logits:
        p = layer[rows.documents.flatten() >= 0].softmax(-1)
        for e in range(8):
            share = (p.topk(2).indices == e).float().sum() / (2 * len(p))
            term = term + 8 * share * p[:, e].mean() / len(logits)
    (script.WEIGHT * term).backward()
    assert 1 <= term < 8
    for n, layer in enumerate(qwen.model.model.layers):
        added = gradients[0][n] - gradients[2][n]
        torch.testing.assert_close(added, layer.mlp.gate.weight.grad, rtol=1e-3, atol=1e-7)


def test_a_router_that_listens_no_more_is_left_as_it_was(experiment: Experiment) -> None:
    lab, script = experiment("lab"), experiment("router")
    qwen = lab.start(**script.MOE)
    result, logits = script.routing(qwen.model, lambda: qwen.model(torch.arange(7)))
    assert torch.equal(result, qwen.model(torch.arange(7)))
    assert [tuple(layer.shape) for layer in logits] == [(7, 8), (7, 8)]


def test_the_page_shows_the_scripts_as_they_are_and_what_is_kept(page: str, experiment: Experiment) -> None:
    run = experiment("run")
    assert run.filled(page, json.loads(run.RESULT.read_text())) == page, (
        "python docs/experiments/run.py --page"
    )
    for name in NAMES:
        assert f"```python\n{(FOLDER / f'{name}.py').read_text()}```" in page
        assert f"<!-- experiments: table {name} -->" in page
        assert f"](experiments/{name}.png)" in page and (FOLDER / f"{name}.png").is_file()


def test_every_link_of_the_page_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!http|#)([^)#]+)", page)
    assert len(links) > 6
    assert not [link for link in links if not (PAGE.parent / link).exists()]


def test_what_is_kept_are_whole_runs_of_every_experiment(experiment: Experiment) -> None:
    """The page's numbers come from 200 steps and more than one seed."""
    kept = json.loads(experiment("run").RESULT.read_text())
    assert tuple(kept["experiments"]) == NAMES
    for found in kept["experiments"].values():
        seeds = [len(curve) for of_seeds in found["curves"].values() for curve in of_seeds]
        assert set(seeds) == {20} and len(seeds) >= 2 * len(found["curves"])


def written_by_transformers(folder: Path, **fields: Any) -> None:
    """A tiny checkpoint that transformers wrote, with the pocket's words."""
    tokenizer = pureqwen.Tokenizer.from_pretrained(POCKET)
    config = tiny(vocab_size=tokenizer.vocab_size + 11, max_position_embeddings=512, **fields)
    _, theirs = twins(config)
    theirs.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(POCKET / name, folder / name)


def three_lines(page: str) -> dict[str, str]:
    """Name of the experiment -> the block of its section that begins with a real checkpoint."""
    blocks = re.findall(
        r"```python\n((?:from|import)[^`]*?\n\nqwen = pureqwen\.load\(.*?)```", page, re.DOTALL
    )
    return {found[1]: block for block in blocks if (found := re.search(r"from (\w+) import \w+\n\n", block))}


@pytest.mark.parametrize("name", NAMES)
def test_the_page_s_three_lines_work_on_a_checkpoint_that_transformers_wrote(
    name: str, page: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly these lines: the name is fetched from a hub that holds a tiny checkpoint."""
    written_by_transformers(tmp_path / "hub", **(MOE if name == "router" else {"tie_word_embeddings": True}))
    asked: list[str] = []

    def fetch(repository: str, **options: Any) -> Path:
        asked.append(repository)
        return tmp_path / "hub"

    monkeypatch.setattr("pureqwen.weights.sources.fetch", fetch)
    monkeypatch.chdir(tmp_path)
    experiment(name)
    block = three_lines(page)[name]
    _, lines = block.split("\n\n")
    assert len(lines.splitlines()) == 3
    room: dict[str, Any] = {}
    exec(compile(block, f"{name} in {PAGE.name}", "exec"), room)
    assert asked and set(asked) <= {"Qwen/Qwen3-0.6B", "Qwen/Qwen3-30B-A3B"}
    if name != "router":
        assert len(room["losses"]) == 3
    if name == "sliding_window":
        assert isinstance(room["qwen"].attends()[0], experiment(name).CachedWindow)
    if name == "swap_mlp":
        assert type(room["qwen"].model.model.layers[3].mlp).__name__ == "Squared"
