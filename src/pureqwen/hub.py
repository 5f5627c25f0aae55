"""A repository of the Hugging Face hub -> a folder on this machine, through huggingface_hub.

The library does the work and keeps its own habits: progress bars, resumed downloads, the token of `hf auth
login`, HF_HOME, HF_HUB_OFFLINE, a cache shared with every other program. What is added here: only the files
that a model needs are fetched, never a pickle, and each way to fail is one HubError that says what happened
and what to do.

What it does not do: read the files (weights/, tokenizer, chat/), or know that a name may be a folder
(weights/sources). `huggingface_hub` is imported when something is fetched; `import pureqwen` reaches no
network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from errno import ENOSPC
from pathlib import Path

# Everything that a model, its tokenizer and its template are read from. Pickles (*.bin, *.pt) are never
# among them.
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "*.safetensors",
    "*.safetensors.index.json",
)
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"


class HubError(ValueError):
    """A repository could not be fetched; the message says why and what to do about it."""


def fetch(
    repo_id: str,
    *,
    revision: str | None = None,
    allow_patterns: Sequence[str] = MODEL_FILES,
) -> Path:
    """Download what is not cached yet of a repository and return the folder of its snapshot.

    repo_id is "owner/name"; revision a branch, tag or commit (None: the main branch); allow_patterns the
    files that are wanted, as globs. Without a network, or with HF_HUB_OFFLINE=1, a snapshot in the cache is
    returned.

    Raises HubError: malformed repo_id or revision, no network and nothing cached, gated or missing
    repository, missing revision, a full disk, no config.json, no safetensors where they are wanted.
    """
    _check_names(repo_id, revision)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=list(allow_patterns),
                ignore_patterns=["*/*"],  # what lies in folders is for other programs (onnx/, original/)
            )
        )
    except Exception as error:  # the library raises its HTTP client's errors too, whichever that is
        why = _explain(error, repo_id, revision)
        if why is None:
            raise
        raise HubError(why) from error
    if "config.json" in allow_patterns and not (folder / "config.json").is_file():
        raise HubError(f"{repo_id} holds no config.json{_what_it_holds(repo_id, revision)}")
    if "*.safetensors" in allow_patterns and not any(folder.glob("*.safetensors")):
        raise HubError(f"{repo_id} holds no *.safetensors file{_what_it_holds(repo_id, revision)}")
    return folder


def _check_names(repo_id: str, revision: str | None) -> None:
    if (
        not re.fullmatch(f"{_NAME}/{_NAME}", repo_id)
        or ".." in repo_id
        or "--" in repo_id
        or len(repo_id) > 96
    ):
        meant = f" Did you mean Qwen/{repo_id}?" if re.fullmatch(r"Qwen3[A-Za-z0-9.-]*", repo_id) else ""
        raise HubError(
            f"{repo_id!r} is neither a folder on this machine nor the name of a repository on the hub, "
            f"which has the form owner/name, for example Qwen/Qwen3-0.6B.{meant}"
        )
    if revision is not None and (
        not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/+-]*", revision) or ".." in revision
    ):
        raise HubError(f"revision {revision!r} is not the name of a branch or tag, nor a commit")


def _explain(error: Exception, repo_id: str, revision: str | None) -> str | None:
    """What an error of the library means and what to do, in words; None for one that is none of its kinds."""
    from huggingface_hub import errors

    status = _status(error)
    log_in = "log in with a token (hf auth login, or set HF_TOKEN)"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo_id} is gated: accept its licence on https://huggingface.co/{repo_id}, then {log_in}"
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{repo_id} has no revision {revision or 'main'!r}: its page on the hub lists branches and tags"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no repository {repo_id} on the hub, or it is private: check the spelling; "
            f"for a private one {log_in}"
        )
    if status in (401, 403):
        return f"the hub refuses {repo_id} (HTTP {status}): if your token is no longer valid, {log_in}"
    if status is not None:
        return f"the hub answered HTTP {status} for {repo_id}: try again later, what came so far is kept"
    if isinstance(error, errors.HFValidationError):
        return f"{repo_id!r} is not the name of a repository on the hub: {error}"
    if isinstance(error, OSError) and error.errno == ENOSPC:
        return f"the disk is full while fetching {repo_id}: free some, or let HF_HOME name a folder elsewhere"
    if isinstance(error, errors.LocalEntryNotFoundError) or _is_network(error):
        return _offline(error, repo_id, revision)
    return f"{repo_id} could not be stored: {error}" if isinstance(error, OSError) else None


def _offline(error: BaseException, repo_id: str, revision: str | None) -> str:
    what = f"{repo_id} at revision {revision!r}" if revision else repo_id
    if any(type(cause).__name__ == "OfflineModeIsEnabled" for cause in _chain(error)):
        why, first = "HF_HUB_OFFLINE is set", "unset it"
    else:
        why, first = "the hub can't be reached from here (no network?)", "try again, what came so far is kept"
    return (
        f"{why}, and {what} is not (or not wholly) in the cache: {first}; or fetch it elsewhere with "
        f"`hf download {repo_id} --local-dir FOLDER`, copy the folder here and give its path"
    )


def _status(error: BaseException) -> int | None:
    """The HTTP status of the answer that caused this error, None where no answer came."""
    for cause in _chain(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _is_network(error: BaseException) -> bool:
    """Whether the HTTP client, or the socket below it, failed before an answer came."""
    clients = ("httpx", "httpcore", "requests", "urllib3", "hf_xet")
    return any(
        isinstance(cause, ConnectionError | TimeoutError) or type(cause).__module__.startswith(clients)
        for cause in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _what_it_holds(repo_id: str, revision: str | None) -> str:
    """For a repository without the files we need: what it has instead, if the hub tells."""
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(repo_id, revision=revision)
    except Exception:  # the first error is the one to report
        return ""
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return (
            ", only pickled weights (*.bin): loading a pickle can run any code, so it is never done here. "
            "Look for a revision or a sibling with *.safetensors"
        )
    if any(name.endswith(".gguf") for name in names):
        return ", only GGUF files, which are not read yet: give the repository without -GGUF in its name"
    return (
        f"; it holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "; it is empty"
    )
