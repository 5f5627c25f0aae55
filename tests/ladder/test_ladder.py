"""The equivalence ladder: the same weights give the same tokens whichever way they are computed.

    transformers == full forward == static cache == chunked == batched with strangers == packed
                 == speculative == compiled == saved and reloaded == Python API == command line

float32, greedy. Every rung compares the logits of every step, and the best logit must lead the second by more
than 1e-4, so that equal tokens are no accident. Models are tiny, but not degenerate: see `peers`.
"""

import json
import subprocess
import sys

import pytest
import torch
from peers import VARIANTS, tiny, twins

import pureqwen
from pureqwen.cache import StaticCache
from pureqwen.chat import Reply, ReplyOptions
from pureqwen.config import NEUTRAL, SamplingParams
from pureqwen.generate import Cached, Full, Row, Sampler, Stepped, decode, greedy
from pureqwen.generate.intake import Mute
from pureqwen.model import PackedAttend
from pureqwen.qwen import Qwen
from pureqwen.rewrite import compiled_blocks

STEPS = 32
PROMPTS = ([3, 17, 250, 9, 101], [200], [5, 5, 88, 31, 7, 64, 190, 2, 44, 121, 13])
GREEDY = SamplingParams(temperature=0.0, max_tokens=STEPS)

pytest.importorskip("transformers", reason="the first rung needs transformers (make setup)")


class Recorder(Sampler):
    """A sampler that keeps the raw logits of each step."""

    def choose(self, logits, *, position, count, allowed=None):
        self.steps = [*getattr(self, "steps", []), logits.clone()]
        return super().choose(logits, position=position, count=count, allowed=allowed)


def row(prompt: list[int]) -> Row:
    params = GREEDY.over(NEUTRAL)
    return Row(
        prompt,
        params=params,
        sampler=Recorder(params, prompt=prompt, seed=0, num_tokens=None, end_ids=()),
        reply=Reply(Mute(), options=ReplyOptions(raw=True, enabled=False)),
        text_of=lambda token: "",
    )


def finish(rows: list[Row], compute) -> None:
    for _ in decode(rows, compute):
        pass


@pytest.fixture(scope="module", params=VARIANTS)
def rung(request):
    """A model, and for each prompt what transformers makes of it: tokens, and the logits of every step."""
    config = tiny(**VARIANTS[request.param])
    ours, theirs = twins(config)
    expected = []
    for prompt in PROMPTS:
        ids, logits = list(prompt), []
        with torch.inference_mode():
            for _ in range(STEPS):
                logits.append(theirs(input_ids=torch.tensor([ids])).logits[0, -1])
                ids.append(int(logits[-1].argmax()))
        best, second = torch.stack(logits).topk(2).values.unbind(-1)
        assert (best - second).min() > 1e-4, "a near tie: this seed can't tell right from wrong"
        expected.append((ids[len(prompt) :], torch.stack(logits)))
    assert min(len(set(tokens)) for tokens, _ in expected) >= 12
    return ours, expected


def assert_equal(rows: list[Row], expected) -> None:
    for one, (tokens, logits) in zip(rows, expected, strict=True):
        assert one.output == tokens
        difference = (torch.stack(one.sampler.steps) - logits).abs().max()
        assert difference <= 2e-5 * logits.abs().max()


def test_full_forward_equals_transformers(rung):
    model, expected = rung
    for prompt, (tokens, _) in zip(PROMPTS, expected, strict=True):
        assert greedy(model, torch.tensor(prompt), max_tokens=STEPS)[len(prompt) :].tolist() == tokens
    rows = [row(prompt) for prompt in PROMPTS]
    finish(rows, Full(model))
    assert_equal(rows, expected)


@pytest.mark.parametrize("chunk", [512, 4, 1])
def test_static_cache_and_chunked_prompts_equal_transformers(rung, chunk):
    model, expected = rung
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        one = row(prompt)
        cache = StaticCache(model.config, limit=64)
        finish([one], Cached(model, cache, [one], chunk=chunk))
        assert_equal([one], [answer])


@pytest.mark.parametrize("chunk", [512, 4])
def test_a_batch_gives_each_prompt_the_tokens_that_it_gets_alone(rung, chunk):
    """Prompts of different lengths: the pad mask must hold in the prompt and in every later step."""
    model, expected = rung
    rows = [row(prompt) for prompt in PROMPTS]
    cache = StaticCache(model.config, batch=3, limit=64)
    finish(rows, Cached(model, cache, rows, chunk=chunk))
    assert_equal(rows, expected)


class Oracle:
    """Guesses the tokens that will come, up to `length` at a time, every third of them wrong."""

    def __init__(self, tokens: list[int], length: int) -> None:
        self.tokens, self.length, self.done = tokens, length, 0

    def push(self, token: int) -> None:
        self.done += 1

    def draft(self, limit: int) -> list[int]:
        places = range(self.done, min(self.done + min(limit, self.length), STEPS))
        return [(self.tokens[at] + (at % 3 == 2)) % 256 for at in places]


@pytest.mark.parametrize(("length", "chunk"), [(1, 512), (3, 4), (7, 512)])
def test_guessed_tokens_equal_transformers(rung, length, chunk):
    """Alone and in a batch: guesses that come true are kept, and the first that does not voids the rest."""
    model, expected = rung
    for some in ([0], [0, 1, 2]):
        rows = [row(PROMPTS[n]) for n in some]
        for one, n in zip(rows, some, strict=True):
            one.lookup = Oracle(expected[n][0], length)
        ids = []
        hook = model.model.embed_tokens.register_forward_hook(
            lambda _, given, out, ids=ids: ids.append(given)
        )
        cache = StaticCache(model.config, batch=len(rows), limit=64)
        finish(rows, Cached(model, cache, rows, chunk=chunk, speculative=length))
        hook.remove()
        assert_equal(rows, [expected[n] for n in some])
        assert len(ids) < STEPS


def compiled(model, expected):
    """Alone and in a batch, by `Stepped`."""
    torch.compiler.reset()
    with compiled_blocks(model, dynamic=None):
        for some in ([0], [1, 2]):
            rows = [row(PROMPTS[n]) for n in some]
            finish(rows, Stepped(model, StaticCache(model.config, batch=len(rows), limit=64), rows))
            assert_equal(rows, [expected[n] for n in some])


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_compiled_steps_equal_transformers(rung, monkeypatch):
    """Traced by torch.compile, then run as they were traced."""
    compile_it = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile_it(f, **{**how, "backend": "eager"}))
    compiled(*rung)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rung", ["dense untied", "moe"], indirect=True)  # a minute each
def test_steps_that_a_compiler_made_equal_transformers(rung):
    compiled(*rung)


@torch.inference_mode()
def test_packed_texts_equal_transformers(rung):
    model, expected = rung
    texts = [[*prompt, *tokens[:-1]] for prompt, (tokens, _) in zip(PROMPTS, expected, strict=True)]
    lengths = [len(text) for text in texts]
    positions = torch.cat([torch.arange(n) for n in lengths])
    attends = [PackedAttend.from_lengths(lengths)] * model.config.num_hidden_layers
    packed = model(torch.tensor([token for text in texts for token in text]), positions, attends).split(
        lengths
    )
    for logits, (_, theirs) in zip(packed, expected, strict=True):
        assert (logits[-STEPS:] - theirs).abs().max() <= 2e-5 * theirs.abs().max()


def test_saved_and_reloaded_and_the_python_api_equal_transformers(rung, tmp_path):
    model, expected = rung
    Qwen(model).save(tmp_path)
    qwen = pureqwen.load(str(tmp_path))
    assert qwen.dtype == torch.float32
    alone = [qwen.generate(list(prompt), GREEDY) for prompt in PROMPTS]
    together = qwen.generate([list(prompt) for prompt in PROMPTS], GREEDY)
    streamed = []
    for prompt in PROMPTS:
        stream = qwen.stream(list(prompt), params=GREEDY)
        list(stream)
        streamed.append(stream.result)
    for results in (alone, together, streamed):
        assert [r.token_ids for r in results] == [tokens for tokens, _ in expected]


def test_command_line_equals_transformers(speaking, tmp_path):
    """Through the whole house: a text on standard input, ids on standard output."""
    folder, theirs, tokenizer = speaking
    text = "The key heads are shared."
    ids = tokenizer.encode(text, allow_special=True)
    with torch.inference_mode():
        for _ in range(STEPS):
            logits = theirs(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits[: tokenizer.vocab_size].argmax()))
    command = [sys.executable, "-m", "pureqwen", "generate", "--raw", "--json", "--model", str(folder)]
    command += ["--temperature", "0", "--max-tokens", str(STEPS), "--ignore-eos"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["token_ids"] == ids[-STEPS:]


@torch.inference_mode()
def test_bfloat16_gives_the_same_tokens_wherever_the_margin_exceeds_the_error(rung):
    model, expected = rung
    exact = {name: p.clone() for name, p in model.state_dict().items()}
    narrow = twins(model.config)[0]
    narrow.load_state_dict(exact)
    narrow.bfloat16()
    for prompt, (tokens, theirs) in zip(PROMPTS, expected, strict=True):
        logits = narrow(torch.tensor([*prompt, *tokens[:-1]]))[-STEPS:]
        error = (logits - theirs).abs().amax(-1)
        best, second = theirs.topk(2).values.unbind(-1)
        clear = best - second > 2 * error
        assert clear.any()
        assert torch.equal(logits.argmax(-1)[clear], torch.tensor(tokens)[clear])
