"""Answers of /v1/chat/completions: one object, or the chunks of a stream that add up to it.

A stream opens with a chunk that holds the role, for each answer; then come deltas of reasoning_content,
content and tool_calls; a chunk with the finish_reason; if asked for, one with the usage and no choices; and
[DONE]. A tool call comes whole in one delta, since half a call can't be taken back.

Where a model closes a thought that it never opened, the content that was streamed was reasoning (`Recast`).
A stream can't take it back: the reasoning comes once more, whole, as reasoning_content, and a client drops
the content it had. The answer in one piece is right by itself.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pureqwen.chat import Content, Event, Finish, Reasoning, Recast, ToolCall, ToolCallDelta
from pureqwen.serve.protocol.answer import Opening, Piece, finite, sent, usage
from pureqwen.serve.protocol.ask import Ask
from pureqwen.serve.protocol.refusal import Refusal

if TYPE_CHECKING:
    from pureqwen.generate.result import Logprob, Result


class ChatAnswer:
    """The writer of one request's answer."""

    def __init__(self, ask: Ask, opening: Opening) -> None:
        self._ask, self._opening = ask, opening

    def begin(self) -> str:
        return "".join(
            self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._ask.rows)
        )

    def piece(self, piece: Piece) -> str:
        """The chunks of a row's news; the log-probabilities of its tokens go with the first of them."""
        deltas = [delta for event in piece.events if (delta := self._delta(event, piece.index)) is not None]
        logprobs = self._logprobs(piece.logprobs) if self._ask.params.logprobs else None
        if not deltas and piece.logprobs and logprobs:
            deltas = [{}]
        text = ""
        for number, delta in enumerate(deltas):
            text += self._chunk(piece.index, delta, logprobs=None if number else logprobs)
        if piece.result is not None:
            text += self._chunk(piece.index, {}, reason=piece.result.finish_reason)
        return text

    def end(self, results: Sequence["Result"]) -> str:
        last = ""
        if self._ask.usage:
            last = sent(
                {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(results, prompts=1)}
            )
        return f"{last}data: [DONE]\n\n"

    def whole(self, results: Sequence["Result"]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": self._message(result, index),
                "logprobs": None if result.logprobs is None else self._logprobs(result.logprobs),
                "finish_reason": result.finish_reason,
            }
            for index, result in enumerate(results)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage(results, prompts=1)}

    def failure(self, refusal: Refusal) -> str:
        return sent(refusal.openai())

    def _head(self, kind: str) -> dict[str, Any]:
        opening = self._opening
        return {"id": opening.id, "object": kind, "created": opening.created, "model": opening.model}

    def _chunk(self, index: int, delta: Any, *, logprobs: Any = None, reason: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return sent(chunk | {"usage": None} if self._ask.usage else chunk)

    def _delta(self, event: Event, index: int) -> dict[str, Any] | None:
        match event:
            case Reasoning(text) | Recast(text):
                return {"reasoning_content": text}
            case Content(text):
                return {"content": text}
            case ToolCallDelta(number, _, name, arguments):
                call: dict[str, Any] = {"index": number, "function": {"arguments": arguments}}
                if name is not None:  # clients join what comes twice
                    call = {"index": number, "id": self._call_id(index, number), "type": "function"}
                    call["function"] = {"name": name, "arguments": arguments}
                return {"tool_calls": [call]}
            case Finish():
                return None

    def _message(self, result: "Result", index: int) -> dict[str, Any]:
        calls = result.tool_calls
        content = result.content if result.content is not None or calls else ""
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if result.reasoning is not None:
            message["reasoning_content"] = result.reasoning
        if calls:
            message["tool_calls"] = [self._call(call, index, number) for number, call in enumerate(calls)]
        return message

    def _call(self, call: ToolCall, index: int, number: int) -> dict[str, Any]:
        function = {"name": call.name, "arguments": call.arguments_json}
        return {"id": self._call_id(index, number), "type": "function", "function": function}

    def _call_id(self, index: int, number: int) -> str:
        """Unlike any other call's in a conversation."""
        return f"call_{self._opening.id.rpartition('-')[2]}_{index}_{number}"

    def _logprobs(self, logprobs: Sequence["Logprob"]) -> dict[str, Any]:
        """Of every token of the output, those of the reasoning and the end among them."""
        return {"content": [self._logprob(one) for one in logprobs], "refusal": None}

    def _logprob(self, one: "Logprob") -> dict[str, Any]:
        return {
            **self._token(one.token_id, one.text, one.logprob),
            "top_logprobs": [self._token(*top) for top in one.top],
        }

    def _token(self, id: int, text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": finite(logprob), "bytes": list(self._opening.bytes_of(id))}
