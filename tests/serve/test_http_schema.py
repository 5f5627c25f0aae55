"""schemathesis reads the OpenAPI document and asks what it allows, and what it does not."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from running import Running
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

OPERATIONS = [
    *(("POST", path) for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages")),
    *(("POST", path) for path in ("/v1/messages/count_tokens", "/tokenize", "/detokenize")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{name}", "/health", "/ready")),
    *(("GET", path) for path in ("/metrics", "/openapi.json")),
]
# What an answer may cost here: the document knows no upper bound for it.
LIMITS = {"max_tokens": 2, "max_completion_tokens": 2}


@pytest.fixture(scope="module")
def document(served: Running) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def brief(body: Any) -> Any:
    """A body whose answer is short, if it has one, of the model that is there."""
    if not isinstance(body, dict):
        return body
    limits = {name: 2 for name in LIMITS if isinstance(body.get(name), int)}
    return {**body, **limits} | ({"model": "pocket"} if isinstance(body.get("model"), str) else {})


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[path for _, path in OPERATIONS])
def test_whatever_is_asked_the_answer_is_one_that_the_document_tells(
    document: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = document[path][method]
    if mode is GenerationMode.NEGATIVE and method == "GET":
        pytest.skip("there is nothing in it that could be wrong")

    statuses: list[int] = []

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=30,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    def ask(case: Any) -> None:
        case.body = brief(case.body)
        # Ranges, and fields that exclude one another, are refused in words and not a part of the document.
        answer = case.call_and_validate(timeout=60, excluded_checks=[positive_data_acceptance])
        statuses.append(answer.status_code)

    ask()
    if mode is GenerationMode.POSITIVE and "{" not in path:
        assert 200 in statuses, "a server that refuses everything is right too"
