"""The server's log: one line for each request, as key=value or as JSON, on standard error.

A line has the request's id, its route, its status, its times and counts; never what a user or the model
wrote, unless the server was asked to (`log_text`). What comes from a client is quoted, so that no line can be
forged.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

LOGGER = logging.getLogger("pureqwen.serve")
PLAIN = re.compile(r"[\w./:+-]+", re.ASCII)


def log(
    event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: object
) -> None:
    """One line; fields that are None are left out."""
    known = {key: value for key, value in fields.items() if value is not None}
    LOGGER.log(level, event, extra={"fields": known}, exc_info=error)


class Lines(logging.Formatter):
    """time=... level=... event=... key=value; or the same as an object of JSON."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(fields, ensure_ascii=False, default=str)
        return " ".join(f"{key}={plain(value)}" for key, value in fields.items())


def plain(value: object) -> str:
    """A value that is one word as it is, anything else as a JSON text."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text)


def begin(*, as_json: bool = False, stream: TextIO | None = None) -> None:
    """From now on the server's lines, and uvicorn's warnings, go to `stream` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines(as_json=as_json))
    for logger, level in ((LOGGER, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
