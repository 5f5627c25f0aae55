"""Guessing ahead changes no token, only how many forwards they take; and it stops where it does not pay."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from peers import build, tiny

import pureqwen
from pureqwen import Qwen, Result, SamplingParams
from pureqwen.cache import StaticCache
from pureqwen.generate import Cached, Row, decode
from pureqwen.generate.speculative import COST, Lookup

REPEATING = "Spell the word cat. Spell the word cat. Spell the word cat. Spell the word"


@pytest.fixture(scope="module")
def qwen() -> Qwen:
    """In float32, where products of one row and of five differ less than any choice could show."""
    torch.set_num_threads(1)
    return pureqwen.load(dtype="float32")


@pytest.fixture
def forwards(qwen: Qwen) -> Iterator[list[int]]:
    """How many tokens each forward computes."""
    seen: list[int] = []
    hook = qwen.model.model.embed_tokens.register_forward_hook(
        lambda _, args, out: seen.append(args[0].numel())
    )
    yield seen
    hook.remove()


class Oracle:
    """In the place of a row's Lookup: guesses what is known to come, with mistakes of a share of `wrong`."""

    def __init__(self, truth: Sequence[int], *, wrong: float = 0.0, seed: int = 0) -> None:
        self.truth, self.wrong, self.done = [*truth], wrong, 0
        self.lot = random.Random(seed)
        self.guessed = 0

    def push(self, token: int) -> None:
        self.done += 1

    def draft(self, limit: int) -> list[int]:
        guess = self.truth[self.done : self.done + self.lot.randint(1, limit)]
        self.guessed += len(guess)
        return [(token + 1) % 256 if self.lot.random() < self.wrong else token for token in guess]


def run(qwen: Qwen, row: Row, *, speculative: int) -> Result:
    cache = StaticCache(qwen.config, limit=qwen.context, dtype=qwen.dtype)
    for _ in decode([row], Cached(qwen.model, cache, [row], speculative=speculative)):
        pass
    return row.result()


def both(qwen: Qwen, make: Any, *, wrong: float = 0.0, limit: int = 6) -> tuple[Result, Result, Oracle]:
    """The same row without and with guesses, of which a share is wrong."""
    plain = run(qwen, make(), speculative=0)
    guessing = make()
    guessing.lookup = oracle = Oracle(plain.token_ids, wrong=wrong)
    return plain, run(qwen, guessing, speculative=limit), oracle


# ---- the same tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0},
        {"temperature": 0.8, "seed": 3},
        {"temperature": 1.3, "seed": 5, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
        {"temperature": 0.8, "seed": 3, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 0.8, "seed": 3, "presence_penalty": 1.0, "logit_bias": {15: 2.0}, "min_tokens": 40},
    ],
)
@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_the_tokens_are_the_same_with_guesses_right_and_wrong(
    qwen: Qwen, fields: dict[str, Any], wrong: float
) -> None:
    params = SamplingParams(**{"max_tokens": 60, **fields})
    plain, guessed, oracle = both(qwen, lambda: qwen.intake.text(REPEATING, params), wrong=wrong)
    assert oracle.guessed > 0
    assert guessed.token_ids == plain.token_ids
    assert (guessed.text, guessed.finish_reason) == (plain.text, plain.finish_reason)


def test_right_guesses_save_forwards_and_wrong_ones_cost_none(qwen: Qwen, forwards: list[int]) -> None:
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    counts, tokens = [], []
    for wrong in (0.0, 1.0):
        forwards.clear()
        both(qwen, lambda: qwen.intake.text(REPEATING, params), wrong=wrong)
        counts.append(len(forwards) - 40)  # without those of the plain run
        tokens.append((sum(forwards[:40]), sum(forwards[40:])))
    assert counts[0] <= 16 and counts[1] == 40
    assert tokens[0][0] == tokens[0][1], "what came true was computed once"
    assert tokens[1][0] < tokens[1][1]


def test_guesses_from_the_text_save_forwards(qwen: Qwen, forwards: list[int]) -> None:
    """Through the Python API: a model that repeats itself is foretold."""
    fields = {"temperature": 0, "max_tokens": 120, "ignore_eos": True}
    plain = qwen.generate("ababababab", **fields)
    steps = len(forwards)
    try:
        qwen.speculative = 8
        guessed = qwen.generate("ababababab", **fields)
    finally:
        qwen.speculative = 0
    assert guessed.token_ids == plain.token_ids
    assert len(forwards) - steps < 0.8 * steps


def test_log_probabilities_are_the_same(qwen: Qwen) -> None:
    params = SamplingParams(temperature=0.7, seed=1, max_tokens=40, top_logprobs=3)
    plain, guessed, _ = both(qwen, lambda: qwen.intake.text(REPEATING, params), wrong=0.3)
    assert plain.logprobs is not None and guessed.logprobs is not None
    for one, other in zip(plain.logprobs, guessed.logprobs, strict=True):
        assert (one.token_id, one.text) == (other.token_id, other.text)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [id for id, _, _ in one.top] == [id for id, _, _ in other.top]


def test_prompt_log_probabilities_are_the_same(qwen: Qwen) -> None:
    params = SamplingParams(temperature=0, max_tokens=9)
    plain, guessed, _ = both(qwen, lambda: qwen.intake.text(REPEATING, params, prompt_logprobs=1))
    assert plain.prompt_logprobs is not None and guessed.prompt_logprobs is not None
    for one, other in zip(plain.prompt_logprobs[1:], guessed.prompt_logprobs[1:], strict=True):
        assert one is not None and other is not None
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_max_tokens_ends_inside_a_draft(qwen: Qwen, limit: int, forwards: list[int]) -> None:
    for count in (1, 2, 5, 7):
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        plain, guessed, _ = both(qwen, lambda p=params: qwen.intake.text(REPEATING, p), limit=limit)
        assert guessed.token_ids == plain.token_ids and len(guessed.token_ids) == count
        assert guessed.finish_reason == "length"


def test_a_full_context_ends_inside_a_draft(qwen: Qwen) -> None:
    """No token is computed behind the last place that the model was made for."""
    assert qwen.tokenizer is not None
    qwen = Qwen(qwen.model, tokenizer=qwen.tokenizer, context=100)
    prompt = (qwen.tokenizer.encode(REPEATING) * 9)[:95]
    params = SamplingParams(temperature=0, ignore_eos=True)
    plain, guessed, _ = both(qwen, lambda: qwen.intake.text(prompt, params), limit=8)
    assert guessed.token_ids == plain.token_ids and len(plain.token_ids) == 5


def test_a_stop_string_inside_a_draft_ends_the_row_there(qwen: Qwen) -> None:
    free = qwen.generate(REPEATING, temperature=0, max_tokens=40, ignore_eos=True)
    stop = free.text[len(free.text) // 2 :][:4]
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, stop=stop)
    make = lambda: qwen.intake.text(REPEATING, params)  # noqa: E731
    plain = run(qwen, make(), speculative=0)
    guessing = make()
    guessing.lookup = Oracle(free.token_ids)  # type: ignore[assignment]  # knows what would have followed
    guessed = run(qwen, guessing, speculative=8)
    assert guessed.finish_reason == "stop" and stop not in guessed.text
    assert (guessed.text, guessed.token_ids) == (plain.text, plain.token_ids)
    assert guessing.num_computed <= len(guessing.ids)


def test_the_end_of_text_inside_a_draft_ends_the_row_there(qwen: Qwen) -> None:
    messages = "Spell the word cat."
    params = SamplingParams(temperature=0, max_tokens=200)
    plain = run(qwen, qwen.intake.chat(messages, None, None, params), speculative=0)
    assert plain.finish_reason == "stop"
    guessing = qwen.intake.chat(messages, None, None, params)
    guessing.lookup = Oracle([*plain.token_ids, 5, 6, 7, 8])  # type: ignore[assignment]
    guessed = run(qwen, guessing, speculative=8)
    assert (guessed.token_ids, guessed.content) == (plain.token_ids, plain.content)


def test_a_thinking_budget_ends_the_thought_inside_a_draft(qwen: Qwen) -> None:
    params = SamplingParams(temperature=0, max_tokens=200, thinking_budget=9)
    free = qwen.chat("What is 347 * 86?", temperature=0, max_tokens=100)
    plain = run(qwen, qwen.intake.chat("What is 347 * 86?", None, None, params), speculative=0)
    guessing = qwen.intake.chat("What is 347 * 86?", None, None, params)
    guessing.lookup = Oracle(free.token_ids)  # type: ignore[assignment]  # what would follow without a budget
    guessed = run(qwen, guessing, speculative=8)
    assert guessed.token_ids == plain.token_ids
    assert guessed.usage.forced_tokens == plain.usage.forced_tokens > 0
    assert guessed.usage.reasoning_tokens == plain.usage.reasoning_tokens


def test_a_guess_does_not_end_a_thought_that_a_form_waits_behind(qwen: Qwen) -> None:
    """The guess is what the model would write if nothing waited: an end inside its thought."""
    assert qwen.tokenizer is not None
    [end, think] = qwen.tokenizer.encode("<|im_end|><think>", allow_special=True)
    params = SamplingParams(temperature=0, max_tokens=60, logit_bias={end: 100.0, think: 50.0})
    form = qwen.grammars.regex("[0-9]{2}[a-z]*")
    plain = run(qwen, qwen.intake.chat("Hi", None, None, params, constraint=form), speculative=0)
    guessing = qwen.intake.chat("Hi", None, None, params, constraint=form)
    guessing.lookup = Oracle([think, end, *plain.token_ids[2:]])  # type: ignore[assignment]
    guessed = run(qwen, guessing, speculative=8)
    assert guessed.token_ids == plain.token_ids and guessed.usage == plain.usage
    assert plain.usage.forced_tokens == 2 and len(plain.content or "") == 2


@pytest.mark.parametrize("wrong", [0.0, 0.4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_holds_for_guessed_tokens_too(qwen: Qwen, wrong: float, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "integer", "maximum": 99999}, "sure": {"type": "boolean"}},
        "required": ["answer", "sure"],
        "additionalProperties": False,
    }
    grammar = qwen.grammars.json_schema(schema)
    params = SamplingParams(temperature=temperature, seed=4, max_tokens=300)

    def make() -> Row:
        return qwen.intake.chat("What is 347 * 86?", None, None, params, constraint=grammar)

    plain, guessed, oracle = both(qwen, make, wrong=wrong)
    assert guessed.token_ids == plain.token_ids and oracle.guessed > 0
    assert guessed.content is not None and [*json.loads(guessed.content)] == ["answer", "sure"]


def test_rows_of_a_batch_guess_each_for_itself(qwen: Qwen) -> None:
    """Drafts of different lengths, some rows with none, beside a row that still reads its prompt."""
    prompts = [REPEATING, "hello", REPEATING * 3, "What is the capital of"]
    params = [
        SamplingParams(temperature=t, seed=3, max_tokens=n) for t, n in ((0, 50), (1, 9), (0, 30), (1, 41))
    ]
    rows = [qwen.intake.text(p, one) for p, one in zip(prompts, params, strict=True)]
    alone = [
        run(qwen, qwen.intake.text(p, one), speculative=0) for p, one in zip(prompts, params, strict=True)
    ]
    for n, (row, plain) in enumerate(zip(rows, alone, strict=True)):
        row.lookup = Oracle(plain.token_ids, wrong=0.2, seed=n) if n != 1 else None  # type: ignore[assignment]
    cache = StaticCache(qwen.config, batch=4, limit=400, dtype=qwen.dtype)
    for _ in decode(rows, Cached(qwen.model, cache, rows, chunk=16, speculative=5)):
        pass
    assert [row.output for row in rows] == [plain.token_ids for plain in alone]


def test_the_next_turn_goes_on_from_what_was_right_only(qwen: Qwen) -> None:
    """What lies in the cache behind the last token is a guess that was wrong: no later turn may see it."""
    try:
        qwen.speculative = 8
        first = qwen.generate(REPEATING, temperature=0, max_tokens=33)
        longer = REPEATING + first.text + " and"
        second = qwen.generate(longer, temperature=0, max_tokens=20)
    finally:
        qwen.speculative = 0
    assert second.usage.cached_tokens > 0
    assert (
        second.token_ids
        == run(
            qwen, qwen.intake.text(longer, SamplingParams(temperature=0, max_tokens=20)), speculative=0
        ).token_ids
    )


def test_sampled_tokens_have_the_models_distribution() -> None:
    """Chi-square of the second token of 3,000 seeds, each guessed, against the model's own probabilities."""
    model = build(tiny(vocab_size=16, initializer_range=0.15))
    first = model(torch.tensor([3])).softmax(-1)[-1]  # (V,)
    pairs = torch.stack([torch.tensor([3, token]) for token in range(16)])
    expected = first @ model(pairs)[:, -1].softmax(-1) * 3000  # of the second token, over all first ones
    owner = Qwen(model)
    rows = [owner.intake.text([3], SamplingParams(temperature=1, seed=n, max_tokens=3)) for n in range(3000)]
    likely = [int(first.argmax()), int(expected.argmax())]
    for row in rows:
        row.lookup = Oracle(likely)  # type: ignore[assignment]
    cache = StaticCache(model.config, batch=3000, limit=8)
    for _ in decode(rows, Cached(model, cache, rows, speculative=2)):
        pass
    counts = torch.bincount(torch.tensor([row.output[1] for row in rows]), minlength=16)
    assert expected.min() > 5, "too few for the test to mean anything"
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < 44.3  # 15 degrees of freedom: exceeded by chance once in 10,000
    assert sum(row.output[0] == likely[0] for row in rows) > 100  # guesses came true, and others did not


# ---- what is guessed, and when ---------------------------------------------------------------------------


def test_what_followed_the_longest_end_is_guessed() -> None:
    lookup = Lookup([1, 2, 3, 40, 41, 42, 9, 2, 3, 50, 51, 52, 1, 2, 3])
    lookup.share = 0.9
    assert lookup.draft(3) == [40, 41, 42]  # three tokens alike, though two stood there more recently
    lookup = Lookup([7, 2, 3, 40, 41, 42, 9, 2, 3, 50, 51, 52, 1, 2, 3])
    lookup.share = 0.9
    assert lookup.draft(3) == [50, 51, 52]  # the last of those with two


def test_a_text_that_goes_round_is_guessed_round() -> None:
    lookup = Lookup([1, 2, 1, 2, 1, 2])
    lookup.share = 0.99
    assert lookup.draft(5) == [1, 2, 1, 2, 1]


def test_nothing_is_guessed_where_nothing_stood_before() -> None:
    assert Lookup([1, 2, 3, 4, 5]).draft(8) == []
    assert Lookup([]).draft(8) == []
    assert Lookup([1]).draft(8) == []


def test_the_length_follows_how_often_guesses_come_true() -> None:
    lookup = Lookup([1, 2, 3] * 5)
    lengths = []
    for n in range(30):
        lengths.append(len(lookup.draft(100)))
        lookup.push([1, 2, 3][n % 3])
    assert lengths == sorted(lengths) and lengths[-1] > 3 * lengths[0]
    lookup.share = 0.6
    assert 0.6 ** (lookup.length + 1) < COST < 0.6**lookup.length


def test_guessing_stops_where_it_does_not_pay_and_comes_back() -> None:
    lookup = Lookup([1, 2, 3, 4] * 3)
    for n in range(12):
        for token in (1, 2, 100 + n):  # 2 was followed by something else each time
            lookup.draft(8)
            lookup.push(token)
    assert lookup.share < COST and lookup.draft(8) == []
    for _ in range(5):
        for token in (50, 51, 52):
            assert lookup.draft(0) == []  # the share is measured though nothing is drafted
            lookup.push(token)
    assert lookup.share > COST and lookup.draft(8)
    lookup.share = 0.0  # which it comes to after some thousands of tokens that were not foretold
    assert lookup.draft(8) == []


def test_a_draft_is_never_longer_than_asked(qwen: Qwen) -> None:
    row = qwen.intake.text([1, 2] * 20, SamplingParams(max_tokens=5))
    row.lookup = Lookup(row.ids)
    row.lookup.share = 0.99
    assert [len(row.draft(limit)) for limit in (0, 1, 3, 100)] == [0, 1, 3, 4]  # one is chosen in any case


def test_no_draft_while_tokens_are_forced(qwen: Qwen) -> None:
    row = qwen.intake.text([1, 2] * 20, SamplingParams(max_tokens=50))
    row.forced.append(7)
    assert row.draft(8) == []
