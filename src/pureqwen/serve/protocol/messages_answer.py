"""Answers of /v1/messages: one message made of blocks, or the events of a stream that add up to it.

message_start, then for each block content_block_start, deltas, content_block_stop, then message_delta with
the reason and the usage, message_stop. A thought that turns out late (`Recast`) becomes a thinking block
behind the text that it was taken for.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pureqwen.chat import Content, Event, Finish, Reasoning, Recast, ToolCallDelta
from pureqwen.serve.protocol.answer import Opening, Piece, sent
from pureqwen.serve.protocol.ask import Ask
from pureqwen.serve.protocol.refusal import Refusal

if TYPE_CHECKING:
    from pureqwen.generate.result import Result

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessagesAnswer:
    """The writer of one request's answer."""

    def __init__(self, ask: Ask, opening: Opening) -> None:
        self._ask, self._opening = ask, opening
        self._open: str | None = None  # the type of the block that is being written
        self._count = 0

    def begin(self) -> str:
        usage = {"input_tokens": self._opening.counts[0], "output_tokens": 0}
        return self._sent("message_start", message=self._message([], None, None, usage))

    def piece(self, piece: Piece) -> str:
        return "".join(self._event(event) for event in piece.events)

    def end(self, results: Sequence["Result"]) -> str:
        [result] = results
        reason, stop = self._reason(result)
        delta = {"stop_reason": reason, "stop_sequence": stop}
        told = self._close() + self._sent("message_delta", delta=delta, usage=self._usage(result))
        return told + self._sent("message_stop")

    def whole(self, results: Sequence["Result"]) -> dict[str, Any]:
        [result] = results
        blocks: list[dict[str, Any]] = []
        if result.reasoning is not None:
            thought = "" if self._ask.hidden else result.reasoning
            blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
        if result.content is not None:
            blocks.append({"type": "text", "text": result.content})
        for number, call in enumerate(result.tool_calls):
            blocks.append(
                {"type": "tool_use", "id": self._call_id(number), "name": call.name, "input": call.arguments}
            )
        return self._message(blocks, *self._reason(result), self._usage(result))

    def failure(self, refusal: Refusal) -> str:
        return sent(refusal.anthropic(), event="error")

    def _event(self, event: Event) -> str:
        match event:
            case Reasoning(text):
                return self._thought(text)
            case Content(text):
                return self._delta("text", {"type": "text_delta", "text": text})
            case Recast(text):
                return self._close() + self._thought(text)
            case ToolCallDelta(number, _, name, arguments):
                block: dict[str, Any] = {
                    "type": "tool_use",
                    "id": self._call_id(number),
                    "name": name,
                    "input": {},
                }
                start = self._close() + self._start(block)
                delta = {"type": "input_json_delta", "partial_json": arguments}
                return (
                    start + self._sent("content_block_delta", index=self._count, delta=delta) + self._close()
                )
            case Finish():
                return ""

    def _thought(self, text: str) -> str:
        """Where thoughts are not told, one is an empty delta."""
        told = "" if self._ask.hidden else text
        return self._delta("thinking", {"type": "thinking_delta", "thinking": told})

    def _delta(self, kind: str, delta: dict[str, Any]) -> str:
        start = ""
        if self._open != kind:
            block: dict[str, Any] = {"type": kind, kind: ""} | (
                {"signature": ""} if kind == "thinking" else {}
            )
            start = self._close() + self._start(block)
        return start + self._sent("content_block_delta", index=self._count, delta=delta)

    def _start(self, block: dict[str, Any]) -> str:
        self._open = block["type"]
        return self._sent("content_block_start", index=self._count, content_block=block)

    def _close(self) -> str:
        if self._open is None:
            return ""
        self._open = None
        self._count += 1
        return self._sent("content_block_stop", index=self._count - 1)

    def _sent(self, kind: str, **fields: Any) -> str:
        return sent({"type": kind, **fields}, event=kind)

    def _message(self, blocks: Any, reason: str | None, stop: str | None, usage: Any) -> dict[str, Any]:
        opening = self._opening
        return {
            "id": opening.id,
            "type": "message",
            "role": "assistant",
            "model": opening.model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }

    def _usage(self, result: "Result") -> dict[str, int]:
        """Anthropic counts what came from the cache apart from the rest of the input."""
        used = result.usage
        return {
            "input_tokens": used.prompt_tokens - used.cached_tokens,
            "cache_read_input_tokens": used.cached_tokens,
            "cache_creation_input_tokens": 0,
            "output_tokens": used.completion_tokens,
        }

    def _reason(self, result: "Result") -> tuple[str, str | None]:
        """(stop_reason, the stop sequence that ended it). A result does not say which: its ids do."""
        reason = REASONS[result.finish_reason]
        ended = result.token_ids[-1:] and result.token_ids[-1] in self._opening.ends
        if reason != "end_turn" or ended or not self._ask.params.stop_strings:
            return reason, None
        written = b"".join(self._opening.bytes_of(id) for id in result.token_ids).decode(errors="replace")
        behind = written[len(result.text) :]
        stop = next((stop for stop in self._ask.params.stop_strings if behind.startswith(stop)), None)
        return (reason, None) if stop is None else ("stop_sequence", stop)

    def _call_id(self, number: int) -> str:
        return f"toolu_{self._opening.id.rpartition('_')[2]}_{number}"
