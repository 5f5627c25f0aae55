"""Which folder a name means."""

from pathlib import Path

import pytest

from pureqwen.hub import HubError
from pureqwen.weights import resolve, sources


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Calls that reach the hub."""
    calls: list[tuple[str, str | None]] = []

    def fetch(name: str, *, revision: str | None = None) -> Path:
        calls.append((name, revision))
        return Path("snapshot")

    monkeypatch.setattr(sources, "fetch", fetch)
    return calls


def test_a_folder_wins_over_a_repository_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[tuple[str, str | None]]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("Qwen/Qwen3-0.6B") == Path("snapshot")
    (tmp_path / "Qwen/Qwen3-0.6B").mkdir(parents=True)
    assert resolve("Qwen/Qwen3-0.6B") == Path("Qwen/Qwen3-0.6B")
    (tmp_path / "pocket").mkdir()
    assert resolve("pocket") == Path("pocket")
    assert len(fetched) == 1


def test_a_revision_goes_to_the_hub_and_nowhere_else(
    tmp_path: Path, fetched: list[tuple[str, str | None]]
) -> None:
    resolve("Qwen/Qwen3-0.6B", revision="v1")
    assert fetched == [("Qwen/Qwen3-0.6B", "v1")]
    with pytest.raises(ValueError, match="revision 'v1' is for models of the hub"):
        resolve(tmp_path, revision="v1")


@pytest.mark.parametrize(
    "name",
    ["./nowhere", "../nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "a\\b", "~no-such-user/x"],
)
def test_what_looks_like_a_path_is_no_such_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fetched: list[tuple[str, str | None]]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        resolve(name)
    assert not fetched


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_folder_one_is_in(name: str) -> None:
    with pytest.raises(ValueError, match="the model is empty"):
        resolve(name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "Qwen/\0"])
def test_a_name_that_no_system_allows_is_refused_like_any_other(name: str) -> None:
    with pytest.raises(ValueError, match="neither a folder"):
        resolve(name)


def test_a_package_without_its_pocket_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "POCKET", "empty-pocket")
    with pytest.raises(ValueError, match="the model inside the package is missing"):
        resolve("empty-pocket")


def test_a_path_object_never_reaches_the_hub(fetched: list[tuple[str, str | None]]) -> None:
    with pytest.raises(ValueError, match="no such folder: Qwen"):
        resolve(Path("Qwen") / "nowhere")
    assert not fetched


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file: give the folder"):
        resolve(tmp_path / "model.safetensors")


def test_a_bare_name_is_refused_with_an_example() -> None:
    with pytest.raises(HubError, match=r"Qwen/Qwen3-0\.6B"):
        resolve("Qwen3-0.6B")


def test_the_pocket_is_found_in_the_package() -> None:
    folder = resolve("pocket")
    assert folder.name == "pocket" and (folder / "config.json").is_file()
