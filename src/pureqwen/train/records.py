"""Training data as it is stored: files of records, one at a time, each with a name for error messages.

A record is {"messages": [...]} (optionally with "tools") or {"text": ...}. A .jsonl file holds one a line,
a .json file a list of them, a .txt file is one text; a folder is all such files in it, by name. An iterable
of records is as good. It knows no tokenizer; what is malformed is a ValueError that names file and line.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

Record = Mapping[str, Any]
Source = str | Path | Iterable[Record]


def read_records(source: Source) -> Iterator[tuple[str, Record]]:
    """Each record with a name for error messages: file and line, or the number in the iterable."""
    if not isinstance(source, str | Path):
        for number, record in enumerate(source):
            yield f"record {number}", _checked(record, f"record {number}")
        return
    path = Path(source)
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.suffix in READERS)
        if not paths:
            raise ValueError(f"{path}: no file in it ends in {', '.join(READERS)}")
    elif path.is_file() and path.suffix in READERS:
        paths = [path]
    else:
        raise ValueError(
            f"{path}: training data is a .jsonl file (one record a line), a .json file (a list of records), "
            "a .txt file (one text), or a folder of them"
        )
    for file in paths:
        for where, record in READERS[file.suffix](file):
            yield where, _checked(record, where)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if line.strip():
                yield where, _parsed(line, where)


def _list(path: Path) -> Iterator[tuple[str, Any]]:
    records = _parsed(path.read_bytes(), str(path))
    if not isinstance(records, list):
        raise ValueError(f"{path}: a .json file of training data must hold a list of records")
    for number, record in enumerate(records, start=1):
        yield f"{path}, record {number}", record


def _text(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        yield str(path), {"text": path.read_text(encoding="utf-8")}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from None


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from None


def _checked(record: Any, where: str) -> Record:
    right = 'a record is {"messages": [{"role": ..., "content": ...}, ...]} or {"text": "..."}'
    if not isinstance(record, Mapping) or ("messages" in record) == ("text" in record):
        raise ValueError(f"{where}: {right}")
    if "text" in record:
        if not isinstance(record["text"], str) or not record["text"]:
            raise ValueError(f"{where}: text must be a string that is not empty")
        return record
    messages = record["messages"]
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) and "role" in m for m in messages):
        raise ValueError(f"{where}: messages must be a list of objects with a role; {right}")
    if not any(m["role"] == "assistant" for m in messages):
        raise ValueError(f"{where}: no message of the assistant, so there is nothing to learn")
    return record


READERS: Mapping[str, Callable[[Path], Iterator[tuple[str, Any]]]] = MappingProxyType(
    {".jsonl": _lines, ".json": _list, ".txt": _text}
)
