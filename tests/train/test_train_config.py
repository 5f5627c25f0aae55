"""TrainConfig refuses what can't be trained with, and its schedule is what its docstring says."""

from itertools import pairwise
from typing import Any

import pytest

from pureqwen import TrainConfig


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0}, {"batch_size": True}, {"sequence_length": 1}, {"learning_rate": float("nan")},
        {"learning_rate": 0}, {"decay_from": 1.5}, {"beta2": 1.0}, {"clip": -1}, {"precision": "float16"},
        {"seed": -1}, {"skip_long_chats": 1}, {"keep_checkpoints": 0},
    ],
)  # fmt: skip
def test_a_field_out_of_range_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        TrainConfig(**fields)


def test_unknown_settings_are_refused_and_a_round_trip_keeps_all() -> None:
    config = TrainConfig(steps=7, clip=0)
    assert TrainConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown training setting lr"):
        TrainConfig.from_dict({"lr": 1})


def test_the_rate_rises_stays_and_falls_along_a_cosine() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_steps=10, decay_from=0.5, final_rate=0.1)
    rates = [config.rate_at(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert set(rates[10:50]) == {1.0}
    assert rates[74] == pytest.approx(0.1 + 0.9 * 0.5) and rates[99] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[50:]))


def test_without_decay_from_the_cosine_begins_after_the_warm_up() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_steps=10)
    assert config.rate_at(9, 50) == 1.0 > config.rate_at(10, 50)
    assert config.rate_at(49, 50) == pytest.approx(0.0)
