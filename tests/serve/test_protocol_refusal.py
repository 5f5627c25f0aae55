"""Errors in the shapes of both protocols, with the status that clients act on."""

import json

import pytest

from pureqwen.serve.protocol.answer import Piece, dumped, finite, sent
from pureqwen.serve.protocol.refusal import Refusal, busy, crashed, late, stopping


def test_openai_s_shape_has_the_message_the_type_the_field_and_the_code() -> None:
    told = Refusal("n is 0: it must be at least 1", param="n").openai()
    assert told == {
        "error": {
            "message": "n is 0: it must be at least 1",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_value",
        }
    }


def test_anthropic_s_shape_has_the_id_of_the_request_where_it_is_known() -> None:
    told = Refusal("too large", status=413).anthropic("req_1")
    error = {"type": "request_too_large", "message": "too large"}
    assert told == {"type": "error", "error": error, "request_id": "req_1"}
    assert "request_id" not in Refusal("too large").anthropic()


@pytest.mark.parametrize(
    ("refusal", "status", "openai", "anthropic"),
    [
        (Refusal("a"), 400, "invalid_request_error", "invalid_request_error"),
        (Refusal("a", status=401), 401, "authentication_error", "authentication_error"),
        (Refusal("a", status=403), 403, "invalid_request_error", "permission_error"),
        (busy("a", seconds=2), 429, "rate_limit_error", "rate_limit_error"),
        (crashed(), 500, "server_error", "api_error"),
        (stopping(), 503, "server_error", "overloaded_error"),
        (late(9.5), 504, "server_error", "timeout_error"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_type_of_an_error_follows_from_its_status(
    refusal: Refusal, status: int, openai: str, anthropic: str
) -> None:
    assert refusal.status == status
    assert refusal.openai()["error"]["type"] == openai
    assert refusal.anthropic()["error"]["type"] == anthropic


def test_who_may_come_back_is_told_when_and_who_may_not_is_told_that() -> None:
    assert busy("full", seconds=2).headers == {"Retry-After": "2"}
    assert "Retry-After" in stopping().headers
    assert late(1).headers == {"x-should-retry": "false"}
    assert "1 s" in late(1).message


def test_an_event_is_one_line_whatever_the_text_holds() -> None:
    assert sent({"a": "x\ny\u2028"}) == 'data: {"a":"x\\ny\\u2028"}\n\n'
    assert sent({}, event="ping") == "event: ping\ndata: {}\n\n"


def test_what_can_t_be_has_a_log_probability_that_json_can_write() -> None:
    assert json.loads(dumped([finite(float("-inf")), finite(-1.5)])) == [-9999.0, -1.5]


def test_news_are_empty_by_themselves() -> None:
    assert Piece(index=0, events=()).logprobs == ()
