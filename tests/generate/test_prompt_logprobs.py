"""Log-probabilities of the prompt's tokens: those of a forward over the whole text."""

import math
from typing import Any

import pytest
import torch

import pureqwen
from pureqwen import Qwen, SamplingParams
from pureqwen.cache import StaticCache
from pureqwen.generate import Cached, Full, Row, decode
from pureqwen.generate.loop import SCORED

TEXT = "Spell the word cat. The answer is c, a, t. What is 347 * 86? "


@pytest.fixture(scope="module")
def qwen() -> Qwen:
    torch.set_num_threads(1)
    return pureqwen.load(dtype="float32")


@pytest.fixture
def ids(qwen: Qwen) -> list[int]:
    """More tokens than are scored at a time."""
    assert qwen.tokenizer is not None
    found = qwen.tokenizer.encode(TEXT * 4)
    assert len(found) > 2 * SCORED
    return found


@torch.inference_mode()
def expected(qwen: Qwen, ids: list[int]) -> torch.Tensor:
    """(S, V): in row t what the model gives to each token at t + 1."""
    logprobs: torch.Tensor = qwen.model(torch.tensor(ids)).log_softmax(-1)
    return logprobs


def row(qwen: Qwen, ids: list[int], *, top: int = 0) -> Row:
    return qwen.intake.text(ids, SamplingParams(temperature=0, max_tokens=3), prompt_logprobs=top)


def check(found: Any, logprobs: torch.Tensor, ids: list[int]) -> None:
    first, *others = found
    assert first is None, "the first token follows nothing"
    assert [one.token_id for one in others] == ids[1:]
    mine = torch.tensor([one.logprob for one in others])
    true = logprobs[range(len(ids) - 1), ids[1:]]
    assert (mine - true).abs().max() < 1e-4


def test_they_equal_a_forward_over_the_whole_text(qwen: Qwen, ids: list[int]) -> None:
    result = qwen.generate(ids, temperature=0, max_tokens=3, prompt_logprobs=0)
    check(result.prompt_logprobs, expected(qwen, ids), ids)


@pytest.mark.parametrize("chunk", [1, 7, SCORED, 512])
def test_chunks_make_no_difference(qwen: Qwen, ids: list[int], chunk: int) -> None:
    ids = ids[:100]
    one = row(qwen, ids)
    for _ in decode([one], Cached(qwen.model, StaticCache(qwen.config, limit=200), [one], chunk=chunk)):
        pass
    check(one.result().prompt_logprobs, expected(qwen, ids), ids)


def test_without_a_cache_they_are_the_same(qwen: Qwen, ids: list[int]) -> None:
    one = row(qwen, ids[:50])
    for _ in decode([one], Full(qwen.model)):
        pass
    check(one.result().prompt_logprobs, expected(qwen, ids[:50]), ids[:50])


def test_a_batch_scores_each_prompt_as_it_is_alone(qwen: Qwen, ids: list[int]) -> None:
    """Of different lengths, beside one that is not to be scored."""
    prompts = [ids, ids[5:9], ids[20:60], ids[3:50]]
    rows = [row(qwen, prompt) for prompt in prompts[:3]]
    rows.append(qwen.intake.text(prompts[3], SamplingParams(temperature=0, max_tokens=3)))
    for _ in decode(rows, Cached(qwen.model, StaticCache(qwen.config, batch=4, limit=400), rows)):
        pass
    for one, prompt in zip(rows[:3], prompts, strict=False):
        check(one.result().prompt_logprobs, expected(qwen, prompt), prompt)
        assert one.output == qwen.generate(prompt, temperature=0, max_tokens=3).token_ids
    assert rows[3].result().prompt_logprobs is None


def test_what_lies_in_the_cache_is_computed_again_to_be_scored(qwen: Qwen, ids: list[int]) -> None:
    qwen.generate(ids, temperature=0, max_tokens=3)
    result = qwen.generate(ids, temperature=0, max_tokens=3, prompt_logprobs=0)
    assert result.usage.cached_tokens == 0
    check(result.prompt_logprobs, expected(qwen, ids), ids)


def test_the_likeliest_tokens_stand_beside_each(qwen: Qwen, ids: list[int]) -> None:
    result = qwen.generate(ids, temperature=0, max_tokens=1, prompt_logprobs=4)
    assert result.prompt_logprobs is not None and qwen.tokenizer is not None
    best = expected(qwen, ids).topk(4)
    for one, values, tokens in zip(result.prompt_logprobs[1:], best.values, best.indices, strict=False):
        assert one is not None
        assert [value for _, _, value in one.top] == pytest.approx(values.tolist(), abs=1e-4)
        assert [token for token, _, _ in one.top] == tokens.tolist()
        assert [text for _, text, _ in one.top] == [qwen.tokenizer.decode([t]) for t in tokens.tolist()]


def test_penalties_and_biases_leave_them_alone(qwen: Qwen, ids: list[int]) -> None:
    """They are the model's, not the sampler's."""
    result = qwen.generate(
        ids[:40],
        temperature=3.0,
        repetition_penalty=2.0,
        logit_bias={ids[3]: 50.0},
        max_tokens=2,
        prompt_logprobs=0,
    )
    check(result.prompt_logprobs, expected(qwen, ids[:40]), ids[:40])


def test_a_prompt_of_one_token_has_nothing_to_score(qwen: Qwen) -> None:
    result = qwen.generate([5], temperature=0, max_tokens=2, prompt_logprobs=3)
    assert result.prompt_logprobs == [None] and len(result.token_ids) == 2


def test_without_being_asked_for_there_are_none(qwen: Qwen) -> None:
    assert qwen.generate([5, 6], temperature=0, max_tokens=1).prompt_logprobs is None


def test_the_scores_say_how_surprising_a_text_is(qwen: Qwen) -> None:
    """What a user does with them: perplexity; a text in order is likelier than the same one shuffled."""

    def perplexity(text: str) -> float:
        scores = qwen.generate(text, max_tokens=1, prompt_logprobs=0).prompt_logprobs
        assert scores is not None
        values = [one.logprob for one in scores if one is not None]
        return math.exp(-sum(values) / len(values))

    assert perplexity("What is 347 * 86?") < perplexity("? 86 is * What 347")


@pytest.mark.parametrize("wrong", [-1, 21, 10**9, True, 1.5, "2"])
def test_a_count_that_is_none_is_a_value_error(qwen: Qwen, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"prompt_logprobs is .* from 0 to 20"):
        qwen.generate([5, 6], prompt_logprobs=wrong)
