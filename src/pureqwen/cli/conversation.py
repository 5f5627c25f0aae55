"""What has been said in a chat, and how it is kept in a file. Knows no screen and no model.

The file is JSON: the messages in the form that every chat API uses, with a "finish_reason" beside an answer
that was stopped or cut, and the settings that the chat had.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pureqwen.cli.page import Thinking
from pureqwen.cli.tools import checked_tools
from pureqwen.config import SamplingParams

FORMAT = "pureqwen chat 1"
ROLES = ("system", "user", "assistant", "tool")
SHOWN: tuple[Thinking, ...] = ("show", "fold", "hide")


@dataclass(kw_only=True)
class Conversation:
    """Messages (with the mark of an answer that did not end by itself) and settings.

    tools are the definitions that the model knows; thinking is whether it should think, None leaves it to the
    template; shown is what is seen of it.
    """

    model: str
    turns: list[dict[str, Any]] = field(default_factory=list)
    params: SamplingParams = field(default_factory=SamplingParams)
    tools: list[dict[str, Any]] = field(default_factory=list)
    thinking: bool | None = None
    shown: Thinking = "show"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns as a template wants them, without the marks."""
        return [{key: value for key, value in turn.items() if key != "finish_reason"} for turn in self.turns]

    @property
    def system(self) -> str | None:
        first = self.turns[0] if self.turns else None
        return first["content"] if first and first["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.turns if self.system is None else self.turns[1:]
        self.turns = rest if text is None else [{"role": "system", "content": text}, *rest]

    def say(self, text: str, *, role: str = "user") -> None:
        self.turns.append({"role": role, "content": text})

    def answer(self, message: Mapping[str, Any], finish_reason: str) -> None:
        """Keep an answer; one that was stopped or cut is marked."""
        mark = {"finish_reason": finish_reason} if finish_reason in ("interrupted", "length") else {}
        self.turns.append({**message, **mark})

    def last(self, *roles: str) -> int | None:
        """Where the last turn of one of these roles stands."""
        return next((i for i in reversed(range(len(self.turns))) if self.turns[i]["role"] in roles), None)

    def undo(self) -> str | None:
        """Take back the last thing that the user said, and the answer to it; returns its text."""
        place = self.last("user")
        if place is None:
            return None
        text: str = self.turns[place]["content"]
        del self.turns[place:]
        return text

    def reset(self) -> None:
        """Forget all but the system message."""
        self.turns = self.turns[:1] if self.system is not None else []

    def save(self, path: Path) -> None:
        """Write the file. Raises ValueError where one stands that is no saved chat; OSError."""
        if path.exists():
            try:
                read_object(path)
            except ValueError:
                raise ValueError(f"{path} exists and is no saved chat: choose another name") from None
        params = {name: value for name, value in asdict(self.params).items() if value is not None}
        content = {
            "format": FORMAT,
            "model": self.model,
            "thinking": self.thinking,
            "show": self.shown,
            "params": params,
            **({"tools": self.tools} if self.tools else {}),
            "messages": self.turns,
        }
        text = json.dumps(content, ensure_ascii=False, indent=2)
        fresh = path.with_name(path.name + ".part")
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Conversation":
        """Read such a file. Raises ValueError, which says what is wrong with it, or OSError."""
        content = read_object(path)
        try:
            return cls(
                model=text_of(content, "model"),
                turns=[
                    checked_turn(turn, number) for number, turn in enumerate(list_of(content, "messages"))
                ],
                params=read_params(content.get("params", {})),
                tools=checked_tools(content["tools"]) if "tools" in content else [],
                thinking=one_of(content, "thinking", (None, True, False)),
                shown=one_of(content, "show", SHOWN),
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """A saved chat's JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'{path} is no saved chat: a JSON object with "format": "{FORMAT}" is expected')
    return content


def checked_turn(turn: Any, number: int) -> dict[str, Any]:
    """One message: a known role, and content that is text."""
    where = f"message {number}"
    if not isinstance(turn, dict) or turn.get("role") not in ROLES:
        raise ValueError(f"{where} must be an object whose role is one of {', '.join(ROLES)}")
    if turn["role"] == "system" and number > 0:
        raise ValueError(f"{where} is a system message: only the first one may be")
    for name in ("content", "reasoning_content", "finish_reason"):
        if name in turn or name == "content":
            text_of(turn, name, where=f"{where}: ")
    if "tool_calls" in turn and not isinstance(turn["tool_calls"], list):
        raise ValueError(f"{where}: tool_calls must be a list")
    return turn


def read_params(content: Any) -> SamplingParams:
    known = set(SamplingParams.__dataclass_fields__)
    if not isinstance(content, dict) or set(content) - known:
        raise ValueError("params must be an object with names of sampling parameters only")
    values = dict(content)
    if isinstance(values.get("logit_bias"), dict):  # JSON's keys are strings
        values["logit_bias"] = {int(id): bias for id, bias in values["logit_bias"].items()}
    return SamplingParams(**values)


def text_of(content: Mapping[str, Any], name: str, *, where: str = "") -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{where}{name} must be a text, not {type(value).__name__}")
    return value


def list_of(content: Mapping[str, Any], name: str) -> list[Any]:
    value = content.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, not {type(value).__name__}")
    return value


def one_of(content: Mapping[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:
    value = content.get(name, allowed[0])
    if not any(value is known or (isinstance(known, str) and value == known) for known in allowed):
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(map(json.dumps, allowed))}")
    return value
