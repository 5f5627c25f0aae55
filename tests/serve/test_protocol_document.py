"""The OpenAPI document: every route and field is in it, and every reference leads somewhere."""

import json
import re

import pytest

from pureqwen.config import ServeConfig
from pureqwen.serve.protocol.chat import ChatRequest
from pureqwen.serve.protocol.document import GETS, POSTS, document


def test_every_reference_of_the_document_leads_somewhere() -> None:
    told = document(ServeConfig())
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(told)))
    assert names and names <= set(told["components"]["schemas"])


def test_every_route_says_what_it_may_answer() -> None:
    told = document(ServeConfig(name="a"))
    assert "a" in told["info"]["title"]
    assert set(POSTS) | set(GETS) | {"/metrics", "/openapi.json"} == set(told["paths"])
    for path in POSTS:
        responses = told["paths"][path]["post"]["responses"]
        assert {"200", "400", "401", "413", "429", "500", "503", "504"} <= set(responses)
    assert "text/event-stream" in told["paths"]["/v1/messages"]["post"]["responses"]["200"]["content"]
    assert "503" in told["paths"]["/ready"]["get"]["responses"]
    (parameter,) = told["paths"]["/v1/models/{name}"]["get"]["parameters"]
    assert parameter["name"] == "name"


def test_every_field_of_a_request_is_in_the_document_and_nothing_else_is_allowed() -> None:
    schema = document(ServeConfig())["components"]["schemas"]["ChatRequest"]
    assert set(schema["properties"]) == set(ChatRequest.model_fields)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("keys", [(), ("secret",)])
def test_the_key_is_asked_for_where_one_is_wanted_but_not_for_health(keys: tuple[str, ...]) -> None:
    told = document(ServeConfig(api_keys=keys))
    assert ("security" in told) == bool(keys)
    assert ("security" in told["paths"]["/health"]["get"]) == bool(keys)
    assert "secret" not in json.dumps(told)
