"""SamplingParams: every field checked, defaults by precedence, generation_config.json as in transformers."""

import copy
import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest

from pureqwen.config import NEUTRAL, NON_THINKING, ModelConfig, SamplingParams, eos_ids

FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
INTS = ("top_k", "seed", "max_tokens", "min_tokens", "top_logprobs", "thinking_budget")
BOOLS = ("ignore_eos", "logprobs")
HYBRID = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [7, 3]}


def make(name: str, value: Any) -> SamplingParams:
    return SamplingParams(**{name: value})


# --- hostile values ---


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, np.float32("nan"), 10**400, True, "0.5", [1], 1j]
)
def test_nan_infinity_and_other_types_do_not_pass_as_a_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make(name, value)


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("value", [-1, True, 1.0, math.nan, "1", [1], np.bool_(True)])
def test_bools_floats_and_negatives_do_not_pass_as_a_count(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make(name, value)


@pytest.mark.parametrize("name", BOOLS)
@pytest.mark.parametrize("value", [0, 1, "true", 1.0])
def test_numbers_and_strings_do_not_pass_as_a_switch(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*: it must be true or false"):
        make(name, value)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", -0.1, "at least 0"),
        ("temperature", 1e-9, "from 1e-06"),
        ("temperature", 1e9, "at most 1e"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("min_p", -0.01, "at least 0 and at most 1"),
        ("min_p", 1.01, "at least 0 and at most 1"),
        ("repetition_penalty", 0, "at least 0.01"),
        ("repetition_penalty", 101, "at most 100"),
        ("presence_penalty", 2.1, "at most 2"),
        ("presence_penalty", -2.1, "at least -2"),
        ("frequency_penalty", 2.1, "at most 2"),
        ("seed", 2**63, "from 0 to 9223372036854775807"),
        ("max_tokens", 0, "at least 1"),
        ("top_logprobs", 21, "from 0 to 20"),
    ],
)
def test_a_value_out_of_range_names_field_value_and_range(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed) as error:
        make(name, value)
    assert str(error.value).startswith(f"{name} is {value!r}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", 1e-6),
        ("top_k", 0),
        ("top_p", 1),
        ("min_p", 0),
        ("presence_penalty", -2),
        ("min_tokens", 0),
        ("seed", 2**63 - 1),
        ("top_logprobs", 20),
        ("thinking_budget", 0),
        ("top_k", np.int64(20)),
        ("temperature", np.float32(0.5)),
    ],
)
def test_the_ends_of_the_ranges_and_numpy_s_numbers_are_fine(name: str, value: Any) -> None:
    read = getattr(make(name, value), name)
    assert read == value
    assert type(read) is (float if name in FLOATS else int)


@pytest.mark.parametrize("value", ["", [""], ["a", ""], [1], 1, [["a"]], "\ud800", ["a\udc00"], b"a", {"a"}])
def test_an_empty_or_impossible_stop_string_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="stop"):
        SamplingParams(stop=value)


def test_stop_strings_are_a_tuple_however_they_are_given() -> None:
    assert SamplingParams().stop_strings == ()
    assert SamplingParams(stop="\n").stop_strings == ("\n",)
    params = SamplingParams(stop=["a", "b"])  # type: ignore[arg-type]
    assert params.stop == params.stop_strings == ("a", "b")


@pytest.mark.parametrize("value", [3, "3", [True], [-1], [1.0], ["1"]])
def test_stop_ids_are_token_ids(value: Any) -> None:
    with pytest.raises(ValueError, match="stop_token_ids"):
        SamplingParams(stop_token_ids=value)


@pytest.mark.parametrize(
    "value",
    [
        [],
        3,
        {"5": 1.0},
        {-1: 1.0},
        {True: 1.0},
        {1.5: 1.0},
        {5: math.nan},
        {5: math.inf},
        {5: 101},
        {5: "1"},
        {5: True},
    ],
)
def test_a_logit_bias_maps_ids_to_finite_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match="logit_bias"):
        SamplingParams(logit_bias=value)


def test_a_logit_bias_is_kept_apart_from_the_caller_s() -> None:
    mine = {5: -100, 7: 100.0}
    params = SamplingParams(logit_bias=mine)
    mine[5] = 3
    assert params.logit_bias == {5: -100.0, 7: 100.0}


@pytest.mark.parametrize("value", ["", "stop now", "</think></think>", 3])
def test_a_sentence_at_the_budget_that_does_not_close_the_thinking_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="thinking_end"):
        SamplingParams(thinking_end=value)


def test_fields_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="min_tokens is 6: it must be at most max_tokens, 5"):
        SamplingParams(min_tokens=6, max_tokens=5)
    with pytest.raises(ValueError, match=r"min_tokens is 10{76}\.\.\.: it must be at most max_tokens, 5"):
        SamplingParams(min_tokens=10**3999, max_tokens=5)
    with pytest.raises(ValueError, match="top_logprobs is 1 but logprobs is False"):
        SamplingParams(top_logprobs=1, logprobs=False)
    assert SamplingParams(min_tokens=5, max_tokens=5).max_tokens == 5


def test_a_long_value_is_not_repeated_in_the_message() -> None:
    with pytest.raises(ValueError, match="seed") as error:
        SamplingParams(seed="9" * 10_000)  # type: ignore[arg-type]
    assert len(str(error.value)) < 200


def test_top_logprobs_implies_logprobs() -> None:
    assert SamplingParams(top_logprobs=3).logprobs is True
    assert SamplingParams(top_logprobs=0).logprobs is None


# --- precedence ---


def test_temperature_zero_stays_greedy_over_a_file_that_says_otherwise() -> None:
    merged = SamplingParams(temperature=0).over(SamplingParams.from_generation_config(HYBRID)).over(NEUTRAL)
    assert (merged.temperature, merged.top_k, merged.top_p) == (0.0, 20, 0.95)


def test_the_mode_wins_over_the_file_and_the_user_over_both() -> None:
    file = SamplingParams.from_generation_config(HYBRID)
    merged = SamplingParams(top_k=5).over(NON_THINKING).over(file).over(NEUTRAL)
    assert (merged.temperature, merged.top_p, merged.top_k, merged.min_p) == (0.7, 0.8, 5, 0.0)
    assert SamplingParams().over(file).over(NEUTRAL).temperature == 0.6


def test_the_neutral_values_set_every_field_but_three() -> None:
    unset = {name for name, value in vars(NEUTRAL).items() if value is None}
    assert unset == {"seed", "max_tokens", "thinking_budget"}
    assert set(vars(SamplingParams()).values()) == {None}


def test_an_empty_stop_of_the_user_wins_over_the_default() -> None:
    assert SamplingParams(stop=()).over(SamplingParams(stop="x")).stop == ()


def test_logprobs_turned_off_by_the_user_stay_off() -> None:
    merged = SamplingParams(logprobs=False).over(SamplingParams(top_logprobs=5))
    assert merged.logprobs is False and merged.top_logprobs == 0
    assert SamplingParams(top_logprobs=2).over(NEUTRAL).logprobs is True


def test_merging_checks_the_fields_together() -> None:
    with pytest.raises(ValueError, match="min_tokens is 9"):
        SamplingParams(min_tokens=9).over(SamplingParams(max_tokens=8))


def test_a_default_least_length_gives_way_to_a_shorter_answer_that_is_asked_for():
    file = SamplingParams.from_generation_config({"min_new_tokens": 30})
    assert SamplingParams(max_tokens=8).over(file).over(NEUTRAL).min_tokens == 8
    assert SamplingParams(max_tokens=80).over(file).over(NEUTRAL).min_tokens == 30


def test_params_can_be_copied_sent_and_used_as_a_key() -> None:
    params = SamplingParams(logit_bias={5: 1.0}, stop=("a",), seed=1)
    assert copy.deepcopy(params) == pickle.loads(pickle.dumps(params)) == params
    assert SamplingParams(**dataclasses.asdict(params)) == params
    assert {params: 1}[copy.copy(params)] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 2  # type: ignore[misc]


# --- generation_config.json (PITFALLS 14, 22) ---


def test_a_file_that_samples_gives_its_values() -> None:
    read = SamplingParams.from_generation_config(
        {**HYBRID, "repetition_penalty": 1.05, "max_new_tokens": 2048}
    )
    assert read == SamplingParams(
        temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05, max_tokens=2048
    )


@pytest.mark.parametrize("change", [{"do_sample": False}, {"do_sample": None}])
def test_a_file_that_does_not_say_do_sample_is_greedy_whatever_its_temperature(
    change: dict[str, Any],
) -> None:
    read = SamplingParams.from_generation_config({**HYBRID, "repetition_penalty": 1.05, **change})
    assert read == SamplingParams(temperature=0, repetition_penalty=1.05)


def test_no_file_and_an_empty_file_differ() -> None:
    assert SamplingParams.from_generation_config(None) == SamplingParams()
    assert SamplingParams.from_generation_config({}) == SamplingParams(temperature=0)


def test_unknown_keys_of_a_file_are_left_alone_and_null_is_not_set() -> None:
    read = SamplingParams.from_generation_config(
        {
            "do_sample": True,
            "transformers_version": "4.51.0",
            "num_beams": 1,
            "top_k": None,
            "min_new_tokens": 2,
        }
    )
    assert read == SamplingParams(min_tokens=2)


@pytest.mark.parametrize(
    "bad", [{"temperature": math.nan}, {"top_p": 0}, {"max_new_tokens": -1}, {"do_sample": "yes"}]
)
def test_a_bad_value_of_a_file_names_the_file(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        SamplingParams.from_generation_config({"do_sample": True, **bad})


def test_the_official_files_are_read(generation: dict[str, dict[str, Any]]) -> None:
    read = {name: SamplingParams.from_generation_config(content) for name, content in generation.items()}
    assert read["hybrid"] == SamplingParams(temperature=0.6, top_k=20, top_p=0.95)
    assert read["instruct-2507-4B"] == SamplingParams(temperature=0.7, top_k=20, top_p=0.8)
    assert read["coder-30B-A3B"] == SamplingParams(
        temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05
    )
    assert read["base"] == read["embedding-0.6B"] == SamplingParams(temperature=0, max_tokens=2048)


def config(eos: Any) -> ModelConfig:
    return dataclasses.replace(ModelConfig.preset("Qwen3-0.6B"), eos_token_id=eos)


def test_the_generation_config_s_end_of_text_wins_over_the_config_s() -> None:
    assert eos_ids(HYBRID, config(7)) == {7, 3}
    assert eos_ids({"eos_token_id": 3}, config((7, 9))) == {3}
    assert eos_ids({"eos_token_id": None}, config((7, 9))) == {7, 9}
    assert eos_ids({}, config(7)) == eos_ids(None, config(7)) == {7}
    assert eos_ids(None, config(None)) == frozenset()


@pytest.mark.parametrize("bad", [True, -1, 1.5, "3", [3, None]])
def test_an_end_of_text_that_is_no_token_id_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="eos_token_id"):
        eos_ids({"eos_token_id": bad}, config(7))
