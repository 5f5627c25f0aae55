"""The sampler: order, penalties, cuts, and a draw that depends on seed and position alone."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pureqwen.config import NEUTRAL, SamplingParams
from pureqwen.generate.sampling import Sampler, draw, uniform

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])


def sampler(prompt=(), num_tokens=None, end_ids=(), seed=0, **fields) -> Sampler:
    params = SamplingParams(**fields).over(NEUTRAL)
    return Sampler(params, prompt=prompt, seed=seed, num_tokens=num_tokens, end_ids=end_ids)


def left(one: Sampler, logits=LOGITS) -> list[int]:
    """The ids that top_k, top_p and min_p leave."""
    return one.narrow(logits)[0].tolist()


def test_temperature_zero_is_greedy_whatever_the_cuts():
    assert sampler(temperature=0, top_k=3, top_p=0.1, min_p=0.9).choose(LOGITS, position=0, count=0) == 0


def test_raw_logits_are_left_as_they_were():
    before = LOGITS.clone()
    one = sampler(temperature=0, num_tokens=3, repetition_penalty=2.0, logit_bias={1: 5.0}, prompt=[0])
    one.saw(2)
    one.choose(LOGITS, position=0, count=0)
    assert torch.equal(before, LOGITS)


def test_ids_without_a_token_are_never_sampled():
    logits = torch.tensor([0.0, 0.0, 9.0, 9.0])
    for temperature in (0.0, 5.0):
        one = sampler(temperature=temperature, num_tokens=2)
        assert {one.choose(logits, position=p, count=0) for p in range(50)} <= {0, 1}


def test_end_ids_wait_for_min_tokens():
    one = sampler(temperature=0, end_ids={0}, min_tokens=2)
    assert [one.choose(LOGITS, position=0, count=n) for n in range(4)] == [1, 1, 0, 0]


def test_logit_bias_is_added_before_everything_else():
    assert sampler(temperature=0, logit_bias={3: 2.5}).choose(LOGITS, position=0, count=0) == 3
    assert sampler(temperature=0, logit_bias={0: -100.0}).choose(LOGITS, position=0, count=0) == 1


class Counted(TorchDispatchMode):
    """How many operations there are while it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_work_for_a_token_does_not_grow_with_biases_end_ids_and_what_was_seen(monkeypatch):
    """Biases were added one by one, and lists made tensors anew for every token."""
    logits, counts = torch.zeros(1000), []
    for n in (2, 500):
        one = sampler(
            temperature=0,
            prompt=range(n),
            end_ids=range(n),
            logit_bias=dict.fromkeys(range(n), 1.5),
            min_tokens=3,
            repetition_penalty=1.5,
            frequency_penalty=0.5,
        )
        one.saw(7)
        with monkeypatch.context() as patch, Counted() as counted:
            patch.setattr(torch, "tensor", lambda *args, **fields: pytest.fail("a list is made a tensor"))
            one.choose(logits, position=9, count=1)
        counts.append(counted.count)
    assert counts[0] == counts[1]


def test_repetition_counts_prompt_and_output_and_divides_or_multiplies_by_sign():
    one = sampler(repetition_penalty=2.0, prompt=[0, 4])
    one.saw(1)
    scores = one.penalise(LOGITS.clone())
    assert scores.tolist() == [1.0, 0.5, 0.5, 0.0, -2.0, -3.0]


def test_presence_and_frequency_count_the_output_only():
    one = sampler(presence_penalty=0.5, frequency_penalty=0.25, prompt=[0, 0, 0])
    for token in (1, 1, 2):
        one.saw(token)
    assert one.penalise(LOGITS.clone()).tolist() == [2.0, 0.0, -0.25, 0.0, -1.0, -3.0]


def test_top_k_keeps_k_and_ties_with_the_last():
    assert left(sampler(top_k=2)) == [0, 1]
    assert left(sampler(top_k=2), torch.tensor([1.0, 3.0, 1.0, 0.0])) == [0, 1, 2]
    assert left(sampler(top_k=0)) == left(sampler(top_k=99)) == list(range(6))


def test_top_p_keeps_the_token_that_crosses_it():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log()
    assert left(sampler(top_p=0.5), logits) == [0]
    assert left(sampler(top_p=0.6), logits) == [0, 1]
    assert left(sampler(top_p=0.01), logits) == [0]
    assert left(sampler(top_p=1.0), logits) == [0, 1, 2, 3]


def test_the_smallest_top_p_keeps_the_likeliest_and_not_nothing():
    for top_p in (5e-324, 1e-300, 1e-45, 1e-9):
        one = sampler(top_p=top_p)
        assert left(one) == [0]
        assert one.choose(LOGITS, position=0, count=0) == 0


def test_top_p_counts_what_top_k_has_left():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert left(sampler(top_k=2, top_p=0.55), logits) == [0]  # 0.4 / 0.7 is above it, 0.4 is not


def test_min_p_is_a_share_of_the_likeliest():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert left(sampler(min_p=0.29), logits) == [0, 1, 2]
    assert left(sampler(min_p=1.0), logits) == [0]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("temperature", {"temperature": 0.7}),
        ("top_k", {"top_k": 3}),
        ("top_p", {"top_p": 0.8}),
        ("min_p", {"min_p": 0.2}),
        ("all", {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05}),
    ],
)
def test_what_is_left_equals_transformers_warpers(name, fields):
    transformers = pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        logits = torch.randn(60, generator=generator) * 3
        warpers = transformers.LogitsProcessorList()
        if "temperature" in fields:
            warpers.append(transformers.TemperatureLogitsWarper(fields["temperature"]))
        if "top_k" in fields:
            warpers.append(transformers.TopKLogitsWarper(fields["top_k"]))
        if "top_p" in fields:
            warpers.append(transformers.TopPLogitsWarper(fields["top_p"]))
        if "min_p" in fields:
            warpers.append(transformers.MinPLogitsWarper(fields["min_p"]))
        theirs = warpers(None, logits[None])[0]
        one = sampler(**fields)
        ids, scores = one.narrow(logits / (one.params.temperature or 1))
        assert ids.tolist() == torch.isfinite(theirs).nonzero().flatten().tolist()
        torch.testing.assert_close(scores, theirs[ids])


def test_the_draw_follows_the_probabilities():
    scores = torch.tensor([0.5, 0.3, 0.2]).log()
    drawn = [int(draw(scores, uniform(1, position))) for position in range(4000)]
    for token, probability in enumerate([0.5, 0.3, 0.2]):
        assert abs(drawn.count(token) / 4000 - probability) < 0.03
    assert int(draw(scores, 0.0)) == 0
    assert int(draw(scores, math.nextafter(1.0, 0.0))) == 2


def test_a_token_of_no_probability_is_never_drawn():
    scores = torch.tensor([float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")])
    assert {int(draw(scores, u)) for u in (0.0, 0.25, 0.5, 0.75, math.nextafter(1.0, 0.0))} == {1, 3}


def test_the_draw_depends_on_seed_and_position_alone():
    first = [sampler(seed=11).choose(LOGITS, position=p, count=0) for p in range(40)]
    torch.manual_seed(0)
    assert [sampler(seed=11).choose(LOGITS, position=p, count=3) for p in range(40)] == first
    assert [sampler(seed=12).choose(LOGITS, position=p, count=0) for p in range(40)] != first
    assert uniform(11, 0) == 0.19362243618870734  # on every machine, in every release
