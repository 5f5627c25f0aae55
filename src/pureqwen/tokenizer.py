"""Text to ids and back, from a checkpoint's tokenizer.json.

`encode` turns a string into ids, `decode` turns ids into a string, and a `Stream` does the latter one id
at a time without ever giving out half a character. The byte-level BPE itself (Sennrich et al. 2016,
section 3.2, on bytes as in Radford et al. 2019) is computed by the `tokenizers` library, which defines the
file format.

Text that somebody wrote and text that controls the model are kept apart: by default `<|im_end|>` in a
string is ten ordinary characters. The library's own switch for this hides only tokens marked "special", and
Qwen's `<think>`, `<tool_call>` and fim tokens are not, so a second tokenizer without any added token
encodes what people write.

No token is added that the text does not hold (the post-processor of embedding checkpoints is left to its
caller), and nothing is padded or truncated.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from tokenizers import Tokenizer as Backend
from tokenizers.normalizers import NFC

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
LONG = 10_000  # characters from which on a text is encoded without the interpreter's lock, as batches are
FAR = 4  # characters for each id: a text of no more is encoded in little time, whatever its ids
SLICE = 65_536  # characters whose bytes are counted at a time: other threads wait for no more
# At either end of a slice NFC may compose a character with its marks otherwise than in the whole, and a
# control token may be cut: each of these changes at most four characters of at most four bytes.
CUT = 64


def _byte_values() -> dict[str, int]:
    """Byte-level BPE writes a byte as one printable character: itself if it is one, else 256, 257, ..."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_VALUES = MappingProxyType(_byte_values())


class Tokenizer:
    """The tokenizer of one checkpoint. Make it with `from_pretrained(folder)` or `from_file(path)`."""

    def __init__(self, backend: Backend, *, path: Path) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._path = path
        added = {token.content: id for id, token in backend.get_added_tokens_decoder().items()}
        self._special_ids = dict(sorted(added.items(), key=lambda item: item[1]))
        self._contents = {id: content for content, id in added.items()}

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Tokenizer":
        """The tokenizer of a checkpoint folder; FileNotFoundError when it holds no tokenizer.json."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"no tokenizer.json in {folder}: a checkpoint folder with one is needed for text"
            )
        return cls.from_file(path)

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer in a tokenizer.json file; ValueError when the file is not one."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer file at {path}")
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} is not a tokenizer.json that can be read: {error}") from error
        return cls(backend, path=path)

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids: the highest id that has a token, plus 1. A model may have more rows, or fewer."""
        size = max(
            [self._backend.get_vocab_size(with_added_tokens=False), *(id + 1 for id in self._contents)]
        )
        while (
            self._backend.id_to_token(size) is not None
        ):  # a vocabulary with gaps counts fewer tokens than ids
            size += 1
        return size

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Every added token (control token) and its id, whether or not the file marks it "special"."""
        return self._special_ids

    def token_id(self, text: str) -> int | None:
        """The id of the added token written `text`, or None when there is none."""
        return self._special_ids.get(text)

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 bytes that `id` stands for, often part of a character; none for an id without a token."""
        token = self._token(id)
        if token is None:
            return b""
        if any(character not in BYTE_VALUES for character in token):
            return token.encode("utf-8")
        return bytes(BYTE_VALUES[character] for character in token)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of `text`; control tokens are parsed only with `allow_special`, else they are plain text.

        A lone surrogate, which no UTF-8 can write, is a ValueError.
        """
        if not isinstance(text, str):
            raise ValueError(f"only a string can be encoded, not {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds half of a surrogate pair, which is not valid Unicode: "
                f"U+{ord(text[error.start]):04X} at character {error.start}"
            ) from error
        backend = self._backend if allow_special else self._plain
        if len(text) < LONG:
            return list(backend.encode(text, add_special_tokens=False).ids)
        [encoding] = backend.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)

    def least(self, text: str, *, enough: int, allow_special: bool = False) -> int:
        """`text` has at least so many ids, wherever it stands; found without encoding it.

        Once it is more than `enough`, the rest is not looked at; nothing is, and 0 is told, where the text
        has at most FAR characters for each of these. In a token of n bytes each is an n-th of it; so a byte
        of the text stands for at least 1 / (bytes of the longest token that has this byte).
        """
        if len(text) <= FAR * enough:
            return 0
        total = 0.0
        for start in range(0, len(text), SLICE):
            total += max(0.0, self._weight(text[start : start + SLICE], allow_special) - CUT)
            if total > enough:
                break
        return int(total)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD, ids without a token nothing.

        `skip_special_tokens` leaves out the tokens that the file marks "special" (`<think>` is not one).
        """
        known = [id for id in ids if 0 <= id < self.vocab_size]
        return str(self._backend.decode(known, skip_special_tokens=skip_special_tokens))

    def stream(self) -> "Stream":
        """A decoder to push ids into, one by one."""
        return Stream(self)

    def save(self, folder: str | Path) -> None:
        """Copy the files that this tokenizer was read from into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            source = self._path if name == "tokenizer.json" else self._path.with_name(name)
            target = folder / name
            if source.is_file() and not (target.exists() and target.samefile(source)):
                shutil.copyfile(source, target)

    @cached_property
    def _plain(self) -> Backend:
        """The twin for what people write: the same model and pre-tokenizer, no added token to be found."""
        plain = Backend(self._backend.model)
        if self._backend.normalizer is not None:
            plain.normalizer = self._backend.normalizer
        if self._backend.pre_tokenizer is not None:
            plain.pre_tokenizer = self._backend.pre_tokenizer
        return plain

    def _weight(self, text: str, allow_special: bool) -> float:
        """What the bytes of a text stand for; nothing where it can't be encoded."""
        if allow_special and self._special_ids:
            text = self._controls.sub("\n", text)  # a byte stands for no more than a token does
        try:
            if self._backend.normalizer is not None:
                text = self._backend.normalizer.normalize_str(text)
            found = Counter(text.encode())
        except UnicodeEncodeError:
            return 0.0
        return sum(self._shares[byte] * count for byte, count in found.items())

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        return re.compile(
            "|".join(re.escape(text) for text in sorted(self._special_ids, key=len, reverse=True))
        )

    @cached_property
    def _shares(self) -> tuple[float, ...]:
        """Of a token, by byte: the least that one such byte stands for.

        0 where that is not certain: a byte that has no token of its own may be left out of the ids, and
        nothing is known of other normalizers than NFC, nor of control tokens that take blanks around them.
        """
        added = self._backend.get_added_tokens_decoder().values()
        odd = any(one.lstrip or one.rstrip or one.single_word or one.normalized for one in added)
        if odd or not isinstance(self._backend.normalizer, NFC | None):
            return (0.0,) * 256
        tokens = [self.token_bytes(id) for id in range(self.vocab_size)]
        alone = {token[0] for token in tokens if len(token) == 1}
        longest = [0] * 256
        for token in tokens:
            for byte in set(token):
                longest[byte] = max(longest[byte], len(token))
        return tuple(1 / longest[byte] if byte in alone else 0.0 for byte in range(256))

    def _token(self, id: int) -> str | None:
        if not 0 <= id < self.vocab_size:
            return None
        content = self._contents.get(id)
        return content if content is not None else self._backend.id_to_token(id)


class Stream:
    """Decodes ids one at a time. The deltas and the rest of `finish` add up to `decode` of all the ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held = b""  # at most 3 bytes that may begin a character

    def push(self, id: int) -> str:
        """The text that is certain once `id` has come; bytes that may begin a character are held back."""
        data = self._held + self._tokenizer.token_bytes(id)
        certain = len(data) - _num_unfinished(data)
        self._held = data[certain:]
        return data[:certain].decode("utf-8", errors="replace")

    def finish(self) -> str:
        """What is left: U+FFFD for a character that never came whole, else nothing. It can start anew."""
        rest = self._held.decode("utf-8", errors="replace")
        self._held = b""
        return rest


def _num_unfinished(data: bytes) -> int:
    """How many bytes at the end of `data` are the beginning of a valid character: 0 to 3.

    Python's incremental decoder would also wait after ED A0, half of a surrogate, which nothing completes.
    A beginning is valid when the lowest or the highest continuation bytes complete it.
    """
    for length in range(1, min(4, len(data) + 1)):
        start = data[-length]
        if start < 0x80:
            return 0
        if start >= 0xC0:
            missing = (2 if start < 0xE0 else 3 if start < 0xF0 else 4) - length
            ends = (bytes([fill]) * missing for fill in (0x80, 0xBF)) if missing > 0 else ()
            return length if any(_is_utf8(data[-length:] + end) for end in ends) else 0
    return 0


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
