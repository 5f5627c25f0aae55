"""EngineConfig: every field is checked, and an error names it."""

from typing import Any

import pytest

from pureqwen import EngineConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_batch", 0),
        ("step_tokens", -1),
        ("step_tokens", 1.5),
        ("page_size", 0),
        ("page_size", True),
        ("cache_tokens", 15),
        ("cache_tokens", "all"),
        ("max_queue", 0),
        ("prefix_caching", 1),
        ("deterministic", None),
        ("speculative", -1),
        ("stretch", 1.0),
        ("stretch", float("nan")),
        ("stretch", float("inf")),
    ],
)
def test_a_value_that_can_not_be_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        EngineConfig(**{field: value})


def test_it_is_frozen_and_comes_back_from_its_dict() -> None:
    config = EngineConfig(max_batch=4, cache_tokens=64, speculative=3)
    assert EngineConfig(**config.to_dict()) == config
    with pytest.raises(AttributeError):
        config.max_batch = 5  # type: ignore[misc]


def test_a_step_has_room_for_every_answer_by_default() -> None:
    config = EngineConfig()
    assert config.step_tokens >= config.max_batch * (1 + config.speculative)
