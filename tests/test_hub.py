"""hub.fetch: each way to fail is one clear HubError; a cached snapshot needs no network."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from pureqwen.config import ModelConfig
from pureqwen.hub import MODEL_FILES, HubError, fetch

NAME = "Qwen/Qwen3-0.6B"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Response:
    """What the library's errors carry of an HTTP answer."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.headers: dict[str, str] = {}
        self.request = None
        self.text = ""


def answered(kind: type[Exception], status: int) -> Exception:
    """An error of the library as if the hub had answered with this status."""
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} from the hub")
    error.response = Response(status)  # type: ignore[attr-defined]
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Replace the library: hub(raises=error), or hub(files=what the repository holds)."""

    def prepare(*, raises: Exception | None = None, files: tuple[str, ...] = ()) -> Path:
        def snapshot_download(repo_id: str, **asked: Any) -> str:
            if raises is not None:
                raise raises
            for name in huggingface_hub.utils.filter_repo_objects(
                files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
            ):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text("{}")
            return str(tmp_path)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        monkeypatch.setattr(
            huggingface_hub.HfApi, "list_repo_files", lambda self, repo_id, revision: list(files)
        )
        return tmp_path

    return prepare


def test_only_the_files_that_are_needed_are_fetched(hub: Callable[..., Path]) -> None:
    wanted = {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }
    unwanted = {"README.md", "LICENSE", "pytorch_model.bin", "onnx/model.safetensors", "run.py", "model.gguf"}
    folder = hub(files=(*wanted, *unwanted))
    assert fetch(NAME) == folder
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == wanted
    assert not any(pattern.endswith((".bin", ".pt", ".pkl", ".py")) for pattern in MODEL_FILES)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            answered(errors.GatedRepoError, 403),
            ["gated", "licence", f"https://huggingface.co/{NAME}", "hf auth login"],
        ),
        (answered(errors.RepositoryNotFoundError, 401), ["no repository", "private", "spelling", "HF_TOKEN"]),
        (answered(errors.RepositoryNotFoundError, 404), ["no repository", "spelling"]),
        (answered(errors.RevisionNotFoundError, 404), ["no revision 'v9'"]),
        (answered(errors.HfHubHTTPError, 401), ["refuses", "401", "token"]),
        (answered(errors.HfHubHTTPError, 403), ["refuses", "403", "token"]),
        (answered(errors.HfHubHTTPError, 429), ["429", "later"]),
        (
            caused(errors.LocalEntryNotFoundError("nothing here"), answered(errors.HfHubHTTPError, 503)),
            ["503", "later"],
        ),
        (
            caused(errors.LocalEntryNotFoundError("nothing here"), ConnectionError("no route")),
            ["no network", "elsewhere", "--local-dir", "at revision 'v9'"],
        ),
        (TimeoutError("too slow"), ["no network", "kept"]),
        (
            caused(errors.LocalEntryNotFoundError("nothing here"), errors.OfflineModeIsEnabled("offline")),
            ["HF_HUB_OFFLINE is set", "unset it", "elsewhere"],
        ),
        (errors.HFValidationError("bad name"), ["not the name of a repository"]),
        (OSError(errno.ENOSPC, "No space left on device"), ["disk is full", "HF_HOME"]),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), ["could not be stored", "/cache"]),
    ],
)
def test_each_way_to_fail_says_what_happened_and_what_to_do(
    hub: Callable[..., Path], error: Exception, says: list[str]
) -> None:
    hub(raises=error)
    with pytest.raises(HubError) as raised:
        fetch(NAME, revision="v9")
    for words in [NAME, *says]:
        assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is error


def test_an_error_that_is_ours_is_not_dressed_up_as_the_hub_s(hub: Callable[..., Path]) -> None:
    hub(raises=KeyError("a bug"))
    with pytest.raises(KeyError):
        fetch(NAME)


@pytest.mark.parametrize(
    "name",
    [
        "Qwen3-0.6B",
        "./Qwen3",
        "../models/qwen",
        "/models/qwen",
        "~/models/qwen",
        "a/b/c",
        "a\\b",
        "Qwen/",
        "/Qwen",
        "Qwen/Qwen3 0.6B",
        "Qwen/..",
        "Qwen/a..b",
        "Qwen/a--b",
        "https://huggingface.co/Qwen/Qwen3-0.6B",
        "Qwen/Qwen3\n",
        "",
        "a/" + "b" * 200,
    ],
)
def test_a_name_that_is_neither_folder_nor_repository_is_refused_without_asking_the_hub(
    hub: Callable[..., Path], name: str
) -> None:
    hub(raises=AssertionError("the hub was asked"))
    with pytest.raises(HubError, match="neither a folder on this machine nor the name of a repository"):
        fetch(name)


def test_a_name_without_its_owner_gets_a_suggestion() -> None:
    with pytest.raises(HubError, match=r"Did you mean Qwen/Qwen3-0\.6B\?"):
        fetch("Qwen3-0.6B")


@pytest.mark.parametrize("revision", ["", "../../x", "a/../../x", "/etc/passwd", "a b", "-x", "main\n"])
def test_a_revision_that_could_leave_the_cache_is_refused(hub: Callable[..., Path], revision: str) -> None:
    hub(raises=AssertionError("the hub was asked"))
    with pytest.raises(HubError, match="revision"):
        fetch(NAME, revision=revision)


@pytest.mark.parametrize("revision", ["main", "refs/pr/3", "v1.0", COMMIT])
def test_a_branch_a_tag_and_a_commit_are_revisions(hub: Callable[..., Path], revision: str) -> None:
    hub(files=("config.json", "model.safetensors"))
    assert fetch(NAME, revision=revision).is_dir()


def test_only_pickle_files_are_refused_and_never_fetched(hub: Callable[..., Path]) -> None:
    folder = hub(files=("config.json", "pytorch_model.bin"))
    with pytest.raises(HubError, match=r"no \*\.safetensors file, only pickled weights .* never done here"):
        fetch(NAME)
    assert not (folder / "pytorch_model.bin").exists()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (("config.json", "q.gguf"), "only GGUF files"),
        (("config.json", "README.md"), "it holds config.json, README.md"),
        (("README.md",), "no config.json; it holds README.md"),
        ((), "no config.json; it is empty"),
    ],
)
def test_missing_files_are_named_with_what_is_there(
    hub: Callable[..., Path], files: tuple[str, ...], says: str
) -> None:
    hub(files=files)
    with pytest.raises(HubError, match=says):
        fetch(NAME)


def test_missing_files_are_an_error_also_where_the_hub_does_not_answer_again(
    hub: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(files=("config.json",))

    def fail(self: object, repo_id: str, revision: str | None) -> list[str]:
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    with pytest.raises(HubError, match=r"holds no \*\.safetensors file$"):
        fetch(NAME)


def test_a_config_alone_is_fetched_for_a_config(hub: Callable[..., Path]) -> None:
    folder = hub(files=("config.json", "model.safetensors"))
    with pytest.raises(ValueError, match=r"config\.json: .*neither model_type"):  # the fake file holds {}
        ModelConfig.from_pretrained(NAME, revision="main")
    assert [path.name for path in folder.iterdir()] == ["config.json"]


# --- for real: a process of its own, with its own cache ---


def run(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**keep, "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def cached(home: Path) -> Path:
    """A snapshot as the library's cache holds it."""
    repository = home / "hub" / "models--Qwen--Qwen3-0.6B"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text(json.dumps(ModelConfig.preset("Qwen3-0.6B").to_dict()))
    (snapshot / "model.safetensors").write_bytes(b"")
    return snapshot


FETCH = f"""
from pureqwen.hub import HubError, fetch
try:
    print(fetch({NAME!r}))
except HubError as error:
    print("HubError:", error)
"""
# No name resolves: what a machine without a network does, wherever this test runs.
NO_NETWORK = """
import socket
def fail(*args, **kwargs):
    raise socket.gaierror(-2, "Name or service not known")
socket.getaddrinfo = fail
"""


def test_a_cached_snapshot_needs_no_network(tmp_path: Path) -> None:
    snapshot = cached(tmp_path)
    for before, environment in (("", {"HF_HUB_OFFLINE": "1"}), (NO_NETWORK, {})):
        done = run(before + FETCH, tmp_path, **environment)
        assert done.stdout.strip() == str(snapshot), done.stderr
    read = (
        f"from pureqwen.config import ModelConfig; print(ModelConfig.from_pretrained({NAME!r}).hidden_size)"
    )
    assert run(read, tmp_path, HF_HUB_OFFLINE="1").stdout.strip() == "1024"


def test_without_a_network_the_error_comes_within_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    done = run(NO_NETWORK + FETCH, tmp_path)
    assert done.stdout.startswith("HubError: the hub can't be reached from here (no network?)"), done.stderr
    assert time.monotonic() - start < 20


def test_offline_mode_is_named_where_it_is_the_cause(tmp_path: Path) -> None:
    done = run(FETCH, tmp_path, HF_HUB_OFFLINE="1")
    assert done.stdout.startswith("HubError: HF_HUB_OFFLINE is set"), done.stderr
