"""Answers of /v1/completions: one object, or the chunks of a stream that add up to it.

The answers of the first prompt come first. With `echo` each begins with its prompt, and so do its
log-probabilities; the first token of a prompt has none. A token that is no whole characters is called by its
bytes, as at OpenAI's: bytes:\\xe6. So no two tokens have one name, and each has the offset of the character
that it is a part of.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pureqwen.chat import Content, Reasoning
from pureqwen.serve.protocol.answer import Opening, Piece, finite, sent, usage
from pureqwen.serve.protocol.ask import Ask
from pureqwen.serve.protocol.refusal import Refusal

if TYPE_CHECKING:
    from pureqwen.generate.result import Logprob, Result


class CompletionAnswer:
    """The writer of one request's answer."""

    def __init__(self, ask: Ask, opening: Opening) -> None:
        assert ask.prompts is not None
        self._ask, self._opening, self._prompts = ask, opening, len(ask.prompts)
        self._offsets = [0] * ask.rows
        self._decoders = [getincrementaldecoder("utf-8")("replace") for _ in range(ask.rows)]
        self._echoed = [not ask.echo] * ask.rows

    def begin(self) -> str:
        return ""

    def piece(self, piece: Piece) -> str:
        text, logprobs = self._echo(piece)
        if not self._ask.answerless:
            text += "".join(e.text for e in piece.events if isinstance(e, Content | Reasoning))
            logprobs += piece.logprobs
        told = ""
        if text or (logprobs and self._ask.params.logprobs):
            told = self._chunk(piece.index, text, logprobs=self._logprobs(piece.index, logprobs))
        if piece.result is not None:
            told += self._chunk(piece.index, "", reason=piece.result.finish_reason)
        return told

    def end(self, results: Sequence["Result"]) -> str:
        last = sent({**self._head(), "choices": [], "usage": self._usage(results)}) if self._ask.usage else ""
        return f"{last}data: [DONE]\n\n"

    def whole(self, results: Sequence["Result"]) -> dict[str, Any]:
        choices = [self._choice(index, result) for index, result in enumerate(results)]
        return {**self._head(), "choices": choices, "usage": self._usage(results)}

    def failure(self, refusal: Refusal) -> str:
        return sent(refusal.openai())

    def _choice(self, index: int, result: "Result") -> dict[str, Any]:
        text, logprobs = self._echo(
            Piece(index=index, events=(), prompt_logprobs=result.prompt_logprobs, result=result)
        )
        if not self._ask.answerless:
            text += result.text
            logprobs += result.logprobs or []
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, logprobs),
            "finish_reason": result.finish_reason,
        }

    def _echo(self, piece: Piece) -> tuple[str, list["Logprob | None"]]:
        """The prompt, with the first news of a row."""
        if self._echoed[piece.index]:
            return "", []
        self._echoed[piece.index] = True
        return self._opening.texts[piece.index], list(piece.prompt_logprobs or ())

    def _usage(self, results: Sequence["Result"]) -> dict[str, Any]:
        return usage(results, prompts=self._prompts, completion=not self._ask.answerless)

    def _head(self) -> dict[str, Any]:
        opening = self._opening
        return {
            "id": opening.id,
            "object": "text_completion",
            "created": opening.created,
            "model": opening.model,
        }

    def _chunk(self, index: int, text: str, *, logprobs: Any = None, reason: str | None = None) -> str:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head(), "choices": [choice]}
        return sent(chunk | {"usage": None} if self._ask.usage else chunk)

    def _logprobs(self, index: int, logprobs: Sequence["Logprob | None"]) -> dict[str, Any] | None:
        """OpenAI's four lists, an item for each token; text_offset counts characters."""
        if not self._ask.params.logprobs:
            return None
        first = self._opening.firsts[index]  # has no log-probability
        offsets, tokens = [], []
        for one in logprobs:
            data = self._opening.bytes_of(first if one is None else one.token_id)
            offsets.append(self._offsets[index])
            tokens.append(_name(data))
            self._offsets[index] += len(self._decoders[index].decode(data))
        return {
            "tokens": tokens,
            "token_logprobs": [None if one is None else finite(one.logprob) for one in logprobs],
            "top_logprobs": [None if one is None else self._top(one) for one in logprobs],
            "text_offset": offsets,
        }

    def _top(self, one: "Logprob") -> dict[str, float]:
        """The likeliest tokens, and the one that stands there."""
        scored = [*((id, logprob) for id, _, logprob in one.top), (one.token_id, one.logprob)]
        return {_name(self._opening.bytes_of(id)): finite(logprob) for id, logprob in scored}


def _name(data: bytes) -> str:
    """A token by its text, or by its bytes where that is no text."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
