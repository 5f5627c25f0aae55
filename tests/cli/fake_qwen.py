"""A Qwen that answers from a script, so that the command line is tested without a model.

What the user says decides: "think ..." is thought about first, "slow" comes a word at a time, "long" is cut,
"boom" is refused, "bug" breaks, "tool" calls one and "tools" two, "escape" writes what a terminal would obey,
"lines" ends in many newlines, "page" is Markdown; all else is echoed, also what a tool answered. Run as a
script, it is the command pureqwen with this model.
"""

import importlib.util
import io
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pureqwen
from pureqwen.chat import Content, Event, Finish, Reasoning, ToolCall, ToolCallDelta
from pureqwen.config import SamplingParams

# The results of pureqwen.generate, without what that folder imports besides: torch takes seconds.
_SPEC = importlib.util.spec_from_file_location(
    "results", Path(pureqwen.__file__).parent / "generate" / "result.py"
)
assert _SPEC is not None and _SPEC.loader is not None
results = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(results)

HOSTILE = "a[bold]b[/] \x1b]0;title\x07\x1b[2J\x9b31m\rc\u0000 :smile: \u4f60\u597d"
PAGE = """# Sum

Some **bold** words
on two lines.

| name | value |
|------|------:|
| a    |     1 |

1. one
2. two

```python
def double(x: int) -> int:
    return 2 * x  # twice
```

The end."""
LONG = " ".join(f"word{n}" for n in range(400))


TOP = tuple((n, "?", -math.log(2) * n) for n in range(1, 6))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class FakeTokenizer:
    """Knows the end of a thought, and that token 2 is half of a character."""

    def token_id(self, text: str) -> int | None:
        return 1 if text == "</think>" else None

    def token_bytes(self, token: int) -> bytes:
        return b"\xe4" if token == 2 else f" t{token}\n".encode() if token == 3 else f" t{token}".encode()


class FakeTemplate:
    takes_tools = True

    def render(self, messages: Any, tools: Any = None) -> str:
        return str(tools) if self.takes_tools else ""

    def check_thinking(self, thinking: bool | None) -> None:
        if thinking is False:
            raise ValueError("fake always thinks: take fake-instruct instead")


class FakeStream:
    def __init__(self, events: Iterator[Event], prompt_tokens: int) -> None:
        self.events, self.seen, self.closed = events, [], False
        self.prompt_tokens = prompt_tokens

    seen: list[Event]

    def __iter__(self) -> Iterator[Event]:
        for event in self.events:
            self.seen.append(event)
            yield event

    def close(self) -> None:
        self.closed = True

    @property
    def result(self) -> Any:
        def join(kind: type) -> str:
            return "".join(event.text for event in self.seen if isinstance(event, kind))

        deltas = [event for event in self.seen if isinstance(event, ToolCallDelta)]
        calls = [ToolCall(event.name or "", json.loads(event.arguments)) for event in deltas]
        finish = [event.reason for event in self.seen if isinstance(event, Finish)]
        count = sum(isinstance(event, Reasoning | Content | ToolCallDelta) for event in self.seen)
        return results.Result(
            text=join(Reasoning) + join(Content),
            reasoning=join(Reasoning).strip() or None,
            content=join(Content) or None,
            tool_calls=calls,
            token_ids=list(range(count)),
            finish_reason=finish[0] if finish else "interrupted",
            logprobs=[
                results.Logprob(
                    token_id=n, text="?", logprob=-n * math.log(2) if n else -math.inf, top=TOP, forced=not n
                )
                for n in range(count)
            ],
            usage=results.Usage(
                prompt_tokens=self.prompt_tokens,
                completion_tokens=count,
                cached_tokens=1,
                reasoning_tokens=sum(isinstance(event, Reasoning) for event in self.seen),
            ),
            timings=results.Timings(
                time_to_first_token=0.25, decode_seconds=2.0, prompt_tokens=3, decode_tokens=max(count - 1, 0)
            ),
            seed=7,
        )


class FakeQwen:
    """`asked` holds what stream was called with; `template` None makes it a base model."""

    def __init__(self, *, template: Any = FakeTemplate()) -> None:  # noqa: B008
        self.name, self.context, self.template = "fake", 100, template
        self.defaults = SamplingParams(temperature=0.6)
        self.tokenizer: Any = FakeTokenizer()
        self.grammars = SimpleNamespace(json_schema=lambda s: ("schema", s), regex=lambda p: ("regex", p))
        self.asked: list[SimpleNamespace] = []
        self.streams: list[FakeStream] = []

    def stream(
        self,
        request: Any,
        tools: Any = None,
        thinking: bool | None = None,
        params: SamplingParams | None = None,
        *,
        constraint: Any = None,
    ) -> FakeStream:
        self.asked.append(
            SimpleNamespace(
                request=request, tools=tools, thinking=thinking, params=params, constraint=constraint
            )
        )
        text = request if isinstance(request, str) else request[-1]["content"]
        if "boom" in text:
            raise ValueError("the prompt has 999 tokens, the context holds 100: shorten it")
        if "bug" in text:
            raise KeyError("a mistake of ours")
        answered = not isinstance(request, str) and request[-1]["role"] == "tool"
        self.streams.append(FakeStream(echo(text) if answered else script(text), len(text)))
        return self.streams[-1]


def script(text: str) -> Iterator[Event]:
    if "think" in text:
        yield from (Reasoning("Let me "), Reasoning("see.\n\n"))
    if "cut" in text:
        yield Finish("length")
    elif "nothing" in text:
        raise KeyboardInterrupt
    elif "stop" in text:
        yield Content("half an")
        raise KeyboardInterrupt
    elif "slow" in text:
        for word in LONG.split(" "):
            yield Content(word + " ")
            time.sleep(0.03)
    elif "tool" in text:
        yield ToolCallDelta(0, "call_0", "weather", '{"city": "Oslo"}')
        if "tools" in text:
            yield ToolCallDelta(1, "call_1", "clock", '{"zone": "CET"}')
        yield Finish("tool_calls")
    elif text == "lines":
        yield from (Content("one\n"), Content("\n"), Content("two\n"), Content("\n\n"))
        yield Finish("stop")
    else:
        yield from echo(text)


def echo(text: str) -> Iterator[Event]:
    answer = {"escape": HOSTILE, "long": "It was cut", "page": PAGE}.get(text, f"Echo: {text}")
    for number, word in enumerate(answer.split(" ")):
        yield Content(f" {word}" if number else word)
    yield Finish("length" if text == "long" else "stop")


if __name__ == "__main__":
    import fcntl
    import sys
    import termios

    import pureqwen.cli
    from pureqwen.cli.options import ModelOptions

    ModelOptions.load = lambda self: FakeQwen()  # type: ignore[method-assign,assignment,return-value]
    if sys.stdin.isatty():  # started in a session of its own: let Ctrl-C reach it
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    pureqwen.cli.main()
