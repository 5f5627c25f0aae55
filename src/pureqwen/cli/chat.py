"""`pureqwen chat`: a conversation, on a terminal or through a pipe.

    line -> /command            commands.py
         -> //text              a message that begins with a slash
         -> message             conversation -> Qwen.stream -> page, then a line with the speed
                                             ^                  |
                                             +- the answers <- tool calls (tools.py)

On standard output stand the answers and what a command was asked to show. Remarks (the speed, errors) join
them on a terminal and go to standard error elsewhere. An error ends one answer, never the chat.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pureqwen.cli.commands import NAMES, run_command
from pureqwen.cli.conversation import Conversation
from pureqwen.cli.editor import Reader, make_reader
from pureqwen.cli.errors import describe, is_out_of_memory
from pureqwen.cli.options import ModelOptions, SamplingOptions, flag
from pureqwen.cli.page import Page, Thinking
from pureqwen.cli.terminal import Screen, stderr, stdout
from pureqwen.cli.tokens import TOP
from pureqwen.cli.tools import ask, check_place, read_tools
from pureqwen.config import SamplingParams

if TYPE_CHECKING:
    from pureqwen.generate import Logprob, Result
    from pureqwen.qwen import Qwen, Stream

SWITCHES = ("/think", "/no_think")  # Qwen3 reads these in a message: they are no commands


def chat(
    *,
    system: Annotated[str | None, flag("The system message.", allow_leading_hyphen=True, alias="-s")] = None,
    thinking: Annotated[bool | None, flag("Let the model think first. [default: the model's]")] = None,
    tools: Annotated[Path | None, flag("A JSON file with function definitions.")] = None,
    source: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),  # noqa: B008
    sampling: Annotated[SamplingOptions, Parameter(name="*")] = SamplingOptions(),  # noqa: B008
) -> None:
    """Talk with a model.

    /help lists the commands of the chat. Through a pipe, each line is a message, and only the answers are
    printed.
    """
    params, definitions = sampling.params(), [] if tools is None else read_tools(tools)
    qwen = source.load()
    if qwen.template is None:
        raise ValueError(f"{qwen.name} has no chat template, so it can't chat: use pureqwen generate")
    qwen.template.check_thinking(thinking)
    if definitions:
        check_place(qwen, definitions)
    screen = stdout()
    shown: Thinking = "show" if screen.terminal else "hide"
    talk = Conversation(model=qwen.name, params=params, tools=definitions, thinking=thinking, shown=shown)
    talk.system = system
    Chat(qwen, talk, screen).run()


@dataclass
class Totals:
    """Tokens and seconds of all answers; `context` is what the last one filled."""

    answers: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    decoded: int = 0
    seconds: float = 0.0
    context: int = 0

    def add(self, result: "Result") -> None:
        usage, timings = result.usage, result.timings
        self.answers += 1
        self.prompt += usage.prompt_tokens
        self.cached += usage.cached_tokens
        self.completion += usage.completion_tokens
        self.reasoning += usage.reasoning_tokens
        self.decoded += timings.decode_tokens
        self.seconds += timings.decode_seconds
        self.context = usage.prompt_tokens + usage.completion_tokens


class Chat:
    """The loop: a line, an answer, a line."""

    def __init__(self, qwen: "Qwen", conversation: Conversation, screen: Screen) -> None:
        self.qwen, self.conversation, self.screen = qwen, conversation, screen
        self.notes = screen if screen.terminal else stderr()
        self.markdown = screen.movable  # whether answers are drawn as Markdown
        self.draft = ""  # what the next line should begin with: a message that was not taken
        self.failed = ""  # the last message, where it could not be answered
        self.scored: tuple[dict[str, Any], list[Logprob]] | None = None  # the last answer and its tokens
        self.totals = Totals()
        self.reader: Reader | None = None
        self.hinted = False  # whether it was said how a tool is answered

    def run(self, reader: Reader | None = None) -> None:
        """Until /exit or the end of the input."""
        self.reader = reader = reader or make_reader(NAMES, self.screen, self.notes)
        if self.screen.terminal:
            self.note(f"{self.qwen.name}, context {self.qwen.context:,} tokens. /help lists the commands.")
        while True:
            try:
                line = reader.read(self.take_draft())
                self.take(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                if not sys.stdin.isatty():  # nobody is there to go on
                    raise
                self.note("/exit or Ctrl-D leaves the chat")
            except BrokenPipeError:  # nobody reads on
                raise
            except (ValueError, OSError) as error:
                self.note(f"error: {describe(error)}")

    def take(self, line: str) -> None:
        """Do what one line asks."""
        if not line.strip():
            return
        if not line.startswith("/") or line.split(maxsplit=1)[0] in SWITCHES:
            self.send(line)
        elif line.startswith("//"):
            self.send(line[1:])
        else:
            try:
                run_command(self, line)
            except ValueError:
                self.draft = self.draft or line
                raise

    def send(self, text: str) -> None:
        """Send a message; one that can't be answered is given back."""
        before = list(self.conversation.turns)
        self.failed = ""
        self.conversation.say(text)
        if not self.answer(before):
            self.draft = self.failed = text

    def answer(self, before: list[dict[str, Any]]) -> bool:
        """Answer the conversation; where that fails, it is again what it was before, and False returned.

        Tools that the model calls are answered by whoever writes the lines, and it goes on.
        """
        result = self.say(before)
        answered = result is not None
        while result is not None and (answers := self.ask(result)):
            before = list(self.conversation.turns)
            for text in answers:
                self.conversation.say(text, role="tool")
            result = self.say(before)
        return answered

    def say(self, before: list[dict[str, Any]]) -> "Result | None":
        """One answer of the model; None where there is none, and the conversation is as `before`."""
        talk = self.conversation
        try:
            stream = self.qwen.stream(
                talk.messages, tools=talk.tools or None, thinking=talk.thinking, params=scoring(talk.params)
            )
            result = self.show(stream)
        except BaseException as error:
            talk.turns = before
            if not is_answerable(error):
                raise
            self.note(f"error: {describe(error)}")
            return None
        if not result.token_ids:  # stopped before the first token
            talk.turns = before
            self.note("stopped before the first word: what you said is taken back")
            return None
        talk.answer(result.message, result.finish_reason)
        self.scored = (talk.turns[-1], result.logprobs) if result.logprobs else None
        self.totals.add(result)
        self.note(summary(result))
        return result

    def ask(self, result: "Result") -> list[str]:
        """What the called tools answer; nothing where none was called, or the user would not say."""
        reader, person = self.reader, sys.stdin.isatty()
        if reader is None or not result.tool_calls or result.finish_reason == "interrupted":
            return []
        if person and not self.hinted:
            self.note("type its answer, or !COMMAND that gets the arguments; Ctrl-C gives no answer")
            self.hinted = True
        try:
            return ask(
                result.tool_calls,
                lambda prompt: reader.read("", prompt),
                self.note if person else None,
            )
        except KeyboardInterrupt:
            if not person:
                raise
            self.note("the call stays without an answer: /regenerate asks again, /undo takes it back")
            return []
        except EOFError:
            self.note(f"the input ended where {result.tool_calls[0].name} should have answered")
            raise

    def show(self, stream: "Stream") -> "Result":
        """Show an answer as it is made; Ctrl-C ends it and keeps what there is."""
        page = Page(
            self.screen,
            thinking=self.conversation.shown,
            tags=not self.screen.colour,
            markdown=self.markdown,
            result=lambda: stream.result,
        )
        try:
            for event in stream:
                page.show(event)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                page.end(stream.result)
                raise
            stream.close()
        except Exception:
            page.end(stream.result)
            raise
        result = stream.result
        page.end(result)
        return result

    def note(self, text: str) -> None:
        """A remark that was not asked for."""
        self.notes.line(text if self.notes is self.screen else f"pureqwen: {text}", dim=True)

    def take_draft(self) -> str:
        draft, self.draft = self.draft, ""
        return draft


def scoring(params: SamplingParams) -> SamplingParams:
    """The same, with the log-probabilities that /tokens shows, unless they are turned off.

    They cost 0.4 ms a token with Qwen3's 151,936 rows, on one core.
    """
    if params.logprobs is False:
        return params
    return replace(params, logprobs=True, top_logprobs=max(params.top_logprobs or 0, TOP))


def is_answerable(error: BaseException) -> bool:
    """Whether a chat goes on after this: a user's mistake or a lack of memory, but not our own mistake."""
    if isinstance(error, BrokenPipeError):
        return False
    return isinstance(error, ValueError | OSError) or is_out_of_memory(error)


def summary(result: "Result") -> str:
    """What an answer took, and how it ended where it was not by itself."""
    usage, timings = result.usage, result.timings
    parts = [f"{usage.completion_tokens:,} token{'s' * (usage.completion_tokens != 1)}"]
    if timings.tokens_per_second:
        parts.append(f"{timings.tokens_per_second:.1f} tokens/s")
    parts.append(f"first after {timings.time_to_first_token:.2f} s")
    if result.finish_reason == "interrupted":
        parts.append("stopped; what there is stays in the chat")
    elif result.finish_reason != "stop":
        parts.append(f"finish: {result.finish_reason}")
    return ", ".join(parts)
