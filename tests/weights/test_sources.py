"""Which folder a name means."""

import json
from collections.abc import Sequence
from pathlib import Path

import peers
import pytest

from pureqwen.config import UnsupportedModel
from pureqwen.hub import MODEL_FILES, HubError
from pureqwen.weights import WeightError, resolve, sources

Calls = list[tuple[str, str | None, bool]]  # name, revision, whether the weights were fetched


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Calls that reach the hub, which has one snapshot with one config.json."""
    calls: Calls = []
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/config.json").write_text(json.dumps(peers.tiny().to_dict()))

    def fetch(name: str, *, revision: str | None = None, allow_patterns: Sequence[str] = MODEL_FILES) -> Path:
        calls.append((name, revision, "*.safetensors" in allow_patterns))
        return tmp_path / "snapshot"

    monkeypatch.setattr(sources, "fetch", fetch)
    return calls


def test_a_folder_wins_over_a_repository_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: Calls
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("Qwen/Qwen3-0.6B") == tmp_path / "snapshot"
    (tmp_path / "Qwen/Qwen3-0.6B").mkdir(parents=True)
    assert resolve("Qwen/Qwen3-0.6B") == Path("Qwen/Qwen3-0.6B")
    assert len(fetched) == 2


def test_a_folder_named_pocket_is_in_the_way_only_when_it_holds_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """recipes/ has such a folder: who works there still has the bundled model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").mkdir()
    assert resolve("pocket") == sources._inside("pocket")
    (tmp_path / "pocket/config.json").write_text("{}")
    assert resolve("pocket") == Path("pocket")


def test_a_revision_goes_to_the_hub_and_nowhere_else(tmp_path: Path, fetched: Calls) -> None:
    resolve("Qwen/Qwen3-0.6B", revision="v1")
    assert fetched == [("Qwen/Qwen3-0.6B", "v1", False), ("Qwen/Qwen3-0.6B", "v1", True)]
    with pytest.raises(ValueError, match="revision 'v1' is for models of the hub"):
        resolve(tmp_path, revision="v1")


@pytest.mark.parametrize(
    "name",
    ["./nowhere", "../nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "a\\b", "~no-such-user/x"],
)
def test_what_looks_like_a_path_is_no_such_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fetched: Calls
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
    monkeypatch.setattr(sources, "INSIDE", {"empty-pocket": "nowhere"})
    with pytest.raises(ValueError, match="a model inside the package is missing"):
        resolve("empty-pocket")


def test_a_path_object_never_reaches_the_hub(fetched: Calls) -> None:
    with pytest.raises(ValueError, match="no such folder: Qwen"):
        resolve(Path("Qwen") / "nowhere")
    assert not fetched


def test_weights_that_cannot_be_read_are_not_downloaded(tmp_path: Path, fetched: Calls) -> None:
    path = tmp_path / "snapshot/config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(WeightError, match=r"Qwen/Qwen3-8B-FP8 is quantised with fp8.* Qwen/Qwen3-8B has"):
        resolve("Qwen/Qwen3-8B-FP8")
    path.write_text(json.dumps({**content, "model_type": "llama"}))
    with pytest.raises(UnsupportedModel, match="llama"):
        resolve("meta-llama/Llama-3.2-1B")
    assert not any(weights for _, _, weights in fetched)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file: give the folder"):
        resolve(tmp_path / "model.safetensors")


def test_a_bare_name_is_refused_with_an_example() -> None:
    with pytest.raises(HubError, match=r"Qwen/Qwen3-0\.6B"):
        resolve("Qwen3-0.6B")


@pytest.mark.parametrize("name", sources.INSIDE)
def test_the_models_inside_the_package_are_found(name: str) -> None:
    folder = resolve(name)
    assert folder.name == sources.INSIDE[name] and (folder / "config.json").is_file()
