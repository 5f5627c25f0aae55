"""Who may ask: keys, hosts, origins. Each test is named after what others left open."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from running import Running, Watched, running

from pureqwen import Qwen
from pureqwen.config import ServeConfig
from pureqwen.serve import log as logs
from pureqwen.serve.engine import Engine

PAGE = "http://chat.example:3000"
ROUTES = [
    *("/v1/models", "/v1/models/pocket", "/ready", "/metrics", "/openapi.json", "/nothing"),
    *("/v1/chat/completions", "/v1/completions", "/v1/messages", "/tokenize", "/detokenize"),
]


@pytest.fixture(scope="module")
def guarded(pocket: Qwen) -> Iterator[Running]:
    """Two keys, one name, one page."""
    config = ServeConfig(api_keys=("first", "second"), hosts=("box.example",), origins=(PAGE,))
    with running(Watched(pocket), pocket, config) as server:
        yield server


KEY = {"Authorization": "Bearer first"}
HI = {"model": "pocket", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer third"}, {"x_api_key": "firs"}], ids=range(3)
)
def test_no_route_but_health_answers_without_a_key(guarded: Running, path: str, headers: Any) -> None:
    status, found, told = guarded.ask(path, **headers)
    assert status == 401 and found["www-authenticate"] == "Bearer"
    kind = told["error"]["type"]
    assert kind == "authentication_error" and ("request_id" in told) == path.startswith("/v1/messages")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first"},
        {"Authorization": "bearer second"},
        {"x_api_key": "second"},
        {"Authorization": "Basic first", "x_api_key": "first"},
    ],
    ids=range(4),
)
def test_each_key_opens_by_either_header(guarded: Running, headers: Any) -> None:
    assert guarded.ask("/v1/models", **headers)[0] == 200


@pytest.mark.parametrize("key", ["", "f\u00efrst", "first\x00", "f" * 10_000, "first,second"])
def test_a_strange_key_is_a_wrong_key(guarded: Running, key: str) -> None:
    assert guarded.ask("/ready", Authorization=f"Bearer {key}".encode("latin-1").decode("latin-1"))[0] in (
        400,
        401,
    )


def test_health_needs_no_key(guarded: Running) -> None:
    assert guarded.ask("/health")[0] == 200


def test_two_keys_share_no_prefix_and_one_key_shares_with_itself(guarded: Running) -> None:
    for key in ("first", "second", "first"):
        assert guarded.ask("/v1/chat/completions", HI, Authorization=f"Bearer {key}")[0] == 200
    first, second, third = guarded.engine.salts[-3:]
    assert first == third != second and "" not in (first, second) and "first" not in first


def test_a_single_key_needs_no_salt(pocket: Qwen) -> None:
    with running(Watched(pocket), pocket, ServeConfig(api_keys=("one",))) as server:
        assert server.ask("/v1/chat/completions", HI, Authorization="Bearer one")[0] == 200
        assert server.engine.salts == [""]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "box"]
)
def test_a_name_that_someone_bound_to_this_machine_is_not_answered(guarded: Running, host: str) -> None:
    """DNS rebinding, CVE-2024-28224."""
    status, _, told = guarded.ask("/health", Host=host)
    assert status == 421 and "--allowed-host" in told["error"]["message"]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:8000",
        "[::1]:8000",
        "192.168.0.7",
        "box.example:1",
        "Box.Example.",
    ],
)
def test_names_of_its_own_and_addresses_are_answered(guarded: Running, host: str) -> None:
    assert guarded.ask("/health", Host=host)[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://chat.example", f"{PAGE}.evil.example"]
)
def test_a_strange_page_is_refused_and_told_nothing(guarded: Running, origin: str) -> None:
    status, headers, _ = guarded.ask("/v1/models", Origin=origin, **KEY)
    assert status == 403 and not [name for name in headers if name.startswith("access-control")]


def test_a_listed_page_may_ask_and_read(guarded: Running) -> None:
    status, headers, _ = guarded.ask("/v1/models", Origin=PAGE, **KEY)
    assert status == 200 and headers["access-control-allow-origin"] == PAGE and headers["vary"] == "Origin"
    status, headers, _ = guarded.ask("/v1/models", Origin=PAGE)
    assert status == 401 and headers["access-control-allow-origin"] == PAGE, "the page must see why"


def test_the_server_s_own_page_may_ask(guarded: Running) -> None:
    host = f"127.0.0.1:{guarded.port}"
    status, headers, _ = guarded.ask("/v1/models", Origin=f"http://{host}", **KEY)
    assert status == 200 and "access-control-allow-origin" not in headers


def preflight(server: Running, origin: str, **more: str) -> tuple[int, dict[str, str]]:
    import http.client

    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        link.request("OPTIONS", "/v1/chat/completions", headers=headers)
        answer = link.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        link.close()


def test_a_browser_that_asks_first_is_told_for_a_listed_page_only(guarded: Running) -> None:
    status, headers = preflight(guarded, PAGE)
    assert status == 204 and "authorization" in headers["access-control-allow-headers"]
    assert headers["access-control-allow-origin"] == PAGE
    assert preflight(guarded, "http://evil.example")[0] == 403


def test_a_listed_page_may_send_what_its_client_sends_and_nothing_forged(guarded: Running) -> None:
    """Clients for pages add x-stainless-* and the like: their browsers refused to send them here."""
    own = "x-stainless-lang, X-Stainless-Retry-Count,anthropic-dangerous-direct-browser-access"
    wrong = 'a b, c"d, *\u00e9, (e), , ' + "f" * 65
    status, headers = preflight(guarded, PAGE, Access_Control_Request_Headers=f"{own}, {wrong}")
    allowed = headers["access-control-allow-headers"].split(", ")
    assert status == 204 and {*own.lower().replace(" ", "").split(","), "authorization"} <= {*allowed}
    assert not {"a b", 'c"d', "(e)", "", "f" * 65} & {*allowed}
    assert {"Origin", "Access-Control-Request-Headers"} == {*headers["vary"].split(", ")}
    many = ",".join(f"x-{n}" for n in range(500))
    _, headers = preflight(guarded, PAGE, Access_Control_Request_Headers=many)
    assert len(headers["access-control-allow-headers"].split(",")) < 100
    strange = preflight(guarded, "http://evil.example", Access_Control_Request_Headers=own)
    assert strange[0] == 403 and "access-control-allow-headers" not in strange[1]


def test_a_listed_page_sees_which_fields_were_left_out(pocket: Qwen) -> None:
    with running(Engine(pocket), pocket, ServeConfig(lenient=True, origins=(PAGE,))) as server:
        _, headers, _ = server.ask("/tokenize", {"prompt": "a", "b": 1}, Origin=PAGE)
    assert headers["x-ignored-fields"] == "b"
    assert "x-ignored-fields" in headers["access-control-expose-headers"].split(", ")


EXTENSIONS = ("chrome-extension://abcdefghijklmnop", "app://obsidian.md", "tauri://localhost")


def test_pages_of_extensions_and_applications_can_be_listed(pocket: Qwen) -> None:
    with running(Watched(pocket), pocket, ServeConfig(origins=EXTENSIONS)) as server:
        for origin in EXTENSIONS:
            status, headers, _ = server.ask("/v1/models", Origin=origin)
            assert status == 200 and headers["access-control-allow-origin"] == origin
            assert preflight(server, origin)[0] == 204
        for origin in ("chrome-extension://other", "null", "file://"):
            assert server.ask("/v1/models", Origin=origin)[0] == 403


@pytest.mark.parametrize(
    "origin",
    ["null", "", "*", "localhost", "://a", "file://", "http://a/b", "http://a b", "1a://b", "http://a@b"],
)
def test_what_is_no_origin_of_its_own_can_t_be_listed(origin: str) -> None:
    with pytest.raises(ValueError, match="origins"):
        ServeConfig(origins=(origin,))


def test_the_server_s_own_page_is_one_of_the_web(guarded: Running) -> None:
    origin = f"evil://127.0.0.1:{guarded.port}"
    assert guarded.ask("/v1/models", Origin=origin, **KEY)[0] == 403


def test_cors_is_closed_unless_listed(served: Running) -> None:
    assert served.ask("/v1/models", Origin=PAGE)[0] == 403
    assert preflight(served, PAGE)[0] == 403


def test_a_request_s_id_is_the_client_s_own_or_a_new_one_but_never_a_forged_line(served: Running) -> None:
    assert served.ask("/health", x_request_id="abc-1")[1]["x-request-id"] == "abc-1"
    for wrong in ("a b", 'a"b', "a" * 200, ""):
        assert served.ask("/health", x_request_id=wrong)[1]["x-request-id"].startswith("req_")


# ---- the log ----


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    found = io.StringIO()
    before = logs.LOGGER.handlers[:], logs.LOGGER.level, logs.LOGGER.propagate
    logs.begin(as_json=True, stream=found)
    yield found
    logs.LOGGER.handlers[:], logs.LOGGER.propagate = before[0], before[2]
    logs.LOGGER.setLevel(before[1])
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.handlers.clear()
    uvicorn.propagate = True


def test_the_log_has_ids_and_counts_but_no_word_of_the_user_or_the_model(
    pocket: Qwen, lines: io.StringIO
) -> None:
    body = {**HI, "messages": [{"role": "user", "content": "What is 3 + 4? Tell wombat."}], "max_tokens": 60}
    with running(Engine(pocket), pocket) as server:
        for path, asked in (
            ("/v1/chat/completions", body),
            ("/v1/completions", {"model": "pocket", "prompt": 3}),
        ):
            server.ask(path, asked, x_request_id="mine")
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    first, second = [line for line in told if line["event"] == "request"]
    assert first["request_id"] == "mine" and first["status"] == 200 and first["prompt_tokens"] > 5
    assert first["seconds"] > 0 and first["finish"] in ("stop", "length") and first["first_token"] > 0
    assert second["status"] == 400 and second["reason"] == "invalid_value"
    assert "wombat" not in lines.getvalue() and "7" not in str(first.get("answered", ""))


def test_prompts_and_answers_are_logged_where_asked(pocket: Qwen, lines: io.StringIO) -> None:
    with running(Engine(pocket), pocket, ServeConfig(log_text=True)) as server:
        told = server.chat("Tell wombat.", max_tokens=60)[2]["choices"][0]["message"]["content"]
    assert "wombat" in lines.getvalue() and told[:10] in lines.getvalue()


def test_a_line_can_t_be_forged() -> None:
    record = logging.makeLogRecord({"msg": "request", "fields": {"path": "/a\nevent=b", "seconds": 0.25}})
    text = logs.Lines(as_json=False).format(record)
    assert "\n" not in text and 'path="/a\\nevent=b"' in text and "seconds=0.25" in text
