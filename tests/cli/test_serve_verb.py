"""`pureqwen serve`: its flags become the settings of server and engine, and mistakes are one line."""

import builtins
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pureqwen.cli import main
from pureqwen.config import EngineConfig, ServeConfig

serve = importlib.import_module("pureqwen.cli.serve")  # the folder's name of it is the verb


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`settings("--flag", ...)`: (ServeConfig, EngineConfig, place) of that command, without a server."""
    found: list[Any] = []
    monkeypatch.setattr(
        serve, "run", lambda source, config, engine, place: found.append((config, engine, place))
    )

    def ask(*words: str) -> Any:
        found.clear()
        monkeypatch.setattr("sys.argv", ["pureqwen", "serve", *words])
        try:
            code = main()
        except SystemExit as error:
            code = error.code
        assert not code and len(found) == 1, words
        return found[0]

    return ask


def test_without_flags_everything_is_as_the_settings_have_it(settings: Any) -> None:
    config, engine, place = settings()
    assert config == ServeConfig(hosts=("127.0.0.1",)) and engine == EngineConfig()
    assert (place.host, place.port) == ("127.0.0.1", 8000)


def test_each_flag_is_a_setting(settings: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("second\n\n  third \n")
    config, engine, place = settings(
        *(
            "--host",
            "0.0.0.0",
            "--port",
            "9",
            "--served-name",
            "a",
            "--no-thinking",
            "--lenient",
            "--log-text",
        ),
        *("--api-key", "first", "--api-key-file", str(keys), "--allowed-host", "box", "--drain", "2"),
        *("--allowed-origin", "http://a:1", "--request-seconds", "5", "--log-json", "--deterministic"),
        *("--max-batch", "3", "--step-tokens", "40", "--cache-tokens", "5000", "--max-queue", "4"),
        *("--no-prefix-caching", "--speculative", "2", "--max-prompt", "70"),
    )
    assert config == ServeConfig(
        name="a",
        thinking=False,
        api_keys=("first", "second", "third"),
        hosts=("box", "0.0.0.0"),
        origins=("http://a:1",),
        lenient=True,
        log_text=True,
        max_prompt=70,
        request_seconds=5.0,
    )
    assert engine == EngineConfig(
        max_batch=3,
        step_tokens=40,
        cache_tokens=5000,
        max_queue=4,
        prefix_caching=False,
        speculative=2,
        deterministic=True,
    )
    assert (place.host, place.port, place.drain, place.log_json) == ("0.0.0.0", 9, 2.0, True)


def test_a_folder_is_called_by_its_own_name(settings: Any, tmp_path: Path) -> None:
    assert settings(str(tmp_path))[0].name == tmp_path.name
    assert settings("Qwen/Qwen3-0.6B")[0].name == "Qwen/Qwen3-0.6B"


def test_a_key_file_without_a_key_opens_nothing(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(ValueError, match="holds no key"):
        serve.AccessOptions(api_key_file=tmp_path / "keys").keys()


@pytest.mark.parametrize(
    "fields",
    [
        {"api_keys": ("",)},
        {"api_keys": ("a b",)},
        {"api_keys": ("\u00e9",)},
        {"origins": ("chat.example",)},
        {"origins": ("*",)},
        {"request_seconds": float("nan")},
        {"request_seconds": 0},
        {"head_seconds": 0},
        {"max_prompt": 0},
        {"max_body": 0},
        {"max_logprobs": 21},
        {"lenient": 1},
        {"thinking": "yes"},
        {"name": ""},
    ],
    ids=str,
)
def test_a_setting_that_can_t_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ServeConfig(**fields)


def test_only_this_machine_is_loopback() -> None:
    assert [
        host for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "box") if serve.is_loopback(host)
    ] == [
        "127.0.0.1",
        "::1",
        "localhost",
    ]


def test_the_process_is_ours_while_it_serves_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a long body that is read, each product of the model waited 5 ms for its turn."""
    seen: list[float] = []

    class Socket:
        def getsockname(self) -> tuple[str, int]:
            return "127.0.0.1", 1

        def close(self) -> None:
            pass

    class Server:
        def __init__(self, *given: Any, **more: Any) -> None:
            pass

        def run(self, **given: Any) -> None:
            seen.append(sys.getswitchinterval())

    nothing = {name: lambda *given, **more: None for name in ("Engine", "create_app", "begin")}
    parts = {**serve.imported(), **nothing, "listen": lambda *given: Socket(), "Server": Server}
    monkeypatch.setattr(serve, "imported", lambda: parts)
    before = sys.getswitchinterval()
    source: Any = SimpleNamespace(load=lambda: None)
    place = serve.Place(host="127.0.0.1", port=1, drain=0.0, log_json=False)
    serve.run(source, ServeConfig(), EngineConfig(), place)
    assert seen[0] <= 0.001 and sys.getswitchinterval() == pytest.approx(before, abs=1e-5)


def test_a_missing_package_is_one_line_that_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *others: Any, **more: Any) -> Any:
        if name.startswith("pureqwen.serve"):
            raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")
        return real(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'pureqwen\[serve\]' \(fastapi is missing\)"):
        serve.imported()
