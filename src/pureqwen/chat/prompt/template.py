"""Messages to the prompt of a chat, by the checkpoint's own Jinja template.

`render` gives the text that transformers' apply_chat_template gives, byte for byte: for people to look at
and for tests. `encode` gives the ids for the model: the same, but that nothing in a message or a tool
definition becomes a control token (escape.py). Both run in a sandbox (sandbox.py). Whole chats are rendered,
never message by message: a template looks back and ahead (Qwen's drops the thinking of earlier turns).

The template is not interpreted beyond that: what it does with thinking is found out by asking it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any, Literal, Protocol

from jinja2 import nodes

from pureqwen.chat.prompt.budget import TemplateError
from pureqwen.chat.prompt.escape import Marks
from pureqwen.chat.prompt.final import open_final
from pureqwen.chat.prompt.functions import FUNCTIONS
from pureqwen.chat.prompt.messages import (
    Messages,
    Tools,
    last_switch,
    plain,
    plain_messages,
    plain_tools,
    prepare,
)
from pureqwen.chat.prompt.sandbox import compile, parse, run

THINK, END_THINK = "<think>", "</think>"
TOOL_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
RESERVED = frozenset(
    (
        *("messages", "tools", "documents", "tokenize", "tokenizer", "chat_template", "conversation"),
        *(
            "add_generation_prompt",
            "continue_final_message",
            "return_dict",
            "loop",
            "self",
            "caller",
            "varargs",
        ),
        *("kwargs", "sep_token", "cls_token", "mask_token", "additional_special_tokens"),
        *SPECIAL_TOKENS,
        *FUNCTIONS,
    )
)

Thinking = Literal["hybrid", "always", "never"]


class Encoder(Protocol):
    """What a template needs of a tokenizer."""

    @property
    def special_ids(self) -> Mapping[str, int]: ...

    def encode(self, text: str, /) -> list[int]: ...


class ChatTemplate:
    """A compiled chat template. `source` is its text; TemplateError (a ValueError) when it is not valid."""

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        pad_token: str = "",
        unk_token: str = "",
    ) -> None:
        self.source = source
        tokens = zip(SPECIAL_TOKENS, (bos_token, eos_token, pad_token, unk_token), strict=True)
        self._special_tokens = {name: token for name, token in tokens if token}
        tree = parse(source)
        self._code = compile(tree)
        names = list(tree.find_all(nodes.Name))
        macros = {macro.name for macro in tree.find_all(nodes.Macro)}
        self._assigned = {name.name for name in names if name.ctx != "load"} | macros
        self._read = {name.name for name in names if name.ctx == "load"}
        self._marked: tuple[tuple[str, ...], Marks, CodeType] | None = None

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ChatTemplate | None":
        """The template of a folder: chat_template.jinja, else what tokenizer_config.json has, else None."""
        folder = Path(folder)
        settings = _read_settings(folder / "tokenizer_config.json")
        file = folder / "chat_template.jinja"
        apart = file.is_file()
        source = _read_source(file) if apart else settings.get("chat_template")
        if isinstance(source, list):
            source = _choose(source, folder)
        if not isinstance(source, str):
            return None
        tokens = {name: _token(settings.get(name)) for name in SPECIAL_TOKENS}
        try:
            return cls(source, **tokens)
        except TemplateError as error:
            raise TemplateError(f"{file if apart else folder / 'tokenizer_config.json'}: {error}") from None

    def save(self, folder: str | Path) -> None:
        """Write chat_template.jinja into `folder`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "chat_template.jinja").write_text(self.source, encoding="utf-8")

    def render(
        self,
        messages: Messages,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        **variables: Any,
    ) -> str:
        """The text of a chat, as transformers renders it.

        continue_final_message leaves the last message open, for the model to go on with it (a name instead
        of True names the field to continue); it excludes add_generation_prompt. `variables` are the
        template's own, such as enable_thinking. ValueError for what is no message, and for variables that it
        doesn't have.
        """
        settings = {"add_generation_prompt": add_generation_prompt, **self._check(variables)}
        return self._render(self._code, messages, tools, continue_final_message, settings, None)

    def encode(
        self,
        tokenizer: Encoder,
        messages: Messages,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        **variables: Any,
    ) -> list[int]:
        """The ids of a chat. Control tokens are those that the template writes, and an assistant's own tags.

        Everything else as in `render`. Give messages from people to `prepare` first.
        """
        marks, code = self._mark(tuple(tokenizer.special_ids))
        settings = {"add_generation_prompt": add_generation_prompt, **self._check(variables)}
        text = self._render(code, messages, tools, continue_final_message, settings, marks)
        ids: list[int] = []
        for is_control, piece in marks.split(text):
            if is_control:
                ids.append(tokenizer.special_ids[piece])
            else:
                ids += tokenizer.encode(piece)
        return ids

    def prepare(self, messages: Messages) -> list[dict[str, Any]]:
        """Messages from people, checked and in the form that this template understands.

        Content in text parts becomes one text, and arguments in JSON text a dict where the template goes
        through them; a role that templates would drop in silence, or an image, is a ValueError that names the
        message.
        """
        return prepare(messages, parse_arguments=self.tool_style == "coder")

    @staticmethod
    def prompt_inside(tokenizer: Encoder, ids: Sequence[int]) -> bool:
        """Whether a prompt ends inside a thought, so that the model's first token already belongs to it."""
        controls = {id: text for text, id in tokenizer.special_ids.items()}
        for id in reversed(ids):
            text = controls.get(id)
            if text is not None and text not in TOOL_TAGS:
                return text == THINK
        return False

    @property
    def tool_style(self) -> Literal["hermes", "coder"]:
        """How it asks for tool calls: JSON (hermes) or XML (coder)."""
        return "coder" if "<function=" in self.source else "hermes"

    @property
    def thinking(self) -> Thinking:
        """hybrid: enable_thinking changes the prompt; always: the prompt opens a thought; never: neither."""
        return self._thinking[0]

    @property
    def thinks_by_default(self) -> bool:
        """Whether the model thinks when nothing is said about it."""
        return self._thinking[1]

    @cached_property
    def _thinking(self) -> tuple[Thinking, bool]:
        chat = [{"role": "user", "content": "x"}]
        try:
            on, off = (self.render(chat, enable_thinking=value) for value in (True, False))
            default = self.render(chat)
        except TemplateError:  # a template that wants other messages than these is not one of Qwen3's
            return "never", False
        if on != off:
            return "hybrid", default == on
        always = default.rstrip().endswith(THINK)
        return ("always" if always else "never"), always

    def check_thinking(self, thinking: bool | None) -> None:
        """ValueError, naming the model to take instead, when the template can't do as `thinking` says."""
        if thinking is not None and not isinstance(thinking, bool):
            raise ValueError(
                f"thinking is {thinking!r}: it must be True, False or None (the model's own way)"
            )
        if thinking is True and self.thinking == "never":
            raise ValueError(
                "thinking=True, but this model's chat template has no thinking (as Instruct-2507 and Coder): "
                "take its sibling Thinking-2507 or a first-generation Qwen3, or leave thinking unset"
            )
        if thinking is False and self.thinking == "always":
            raise ValueError(
                "thinking=False, but this model's chat template always opens a thought (as Thinking-2507): "
                "take its sibling Instruct-2507 or a first-generation Qwen3, or leave thinking unset"
            )

    def _check(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        for name in variables:
            if name in RESERVED or name.startswith("_"):
                raise ValueError(
                    f"the template variable {name!r} can't be set: the name belongs to the chat itself"
                )
            if (
                name == "enable_thinking"
            ):  # every Qwen3 client sends it; check_thinking says where it can't be
                continue
            if name in self._assigned:
                raise ValueError(
                    f"the template variable {name!r} can't be set: the template computes it itself"
                )
            if name not in self._read:
                known = sorted(self._read - self._assigned - RESERVED)
                raise ValueError(
                    f"the template reads no variable {name!r}; it reads: {', '.join(known) or 'none'}"
                )
        return {name: plain(value, where=f"the variable {name}") for name, value in variables.items()}

    def _mark(self, controls: tuple[str, ...]) -> tuple[Marks, CodeType]:
        """The template with marks for a tokenizer's control strings; the last one is kept."""
        if self._marked is None or self._marked[0] != controls:
            marks = Marks(controls)
            tree = parse(self.source)
            marks.mark_tree(tree)
            self._marked = controls, marks, compile(tree)
        return self._marked[1:]

    def _render(
        self,
        code: CodeType,
        messages: Messages,
        tools: Tools | None,
        field: bool | str,
        settings: Mapping[str, Any],
        marks: Marks | None,
    ) -> str:
        try:
            chat, definitions = plain_messages(messages), plain_tools(tools)
        except RecursionError:
            raise ValueError("the messages or tools are nested too deep") from None
        special = self._special_tokens
        if marks is not None:
            chat = [marks.mark_assistant(message) for message in chat]
            special = {name: marks.mark(token) for name, token in special.items()}
        close: Callable[[str], str] | None = None
        if field:
            if settings["add_generation_prompt"]:
                raise ValueError(
                    "continue_final_message goes on with the last message, add_generation_prompt begins "
                    "a new one: set only one of them"
                )
            close = open_final(chat, field if isinstance(field, str) else "content", source=self.source)
        text = run(code, {"messages": chat, "tools": definitions, "documents": None, **special, **settings})
        return text if close is None else close(text)


def thinking_mode(messages: Messages, thinking: bool | None, template: ChatTemplate) -> bool:
    """Whether the model is going to think about `messages`.

    `thinking` False is off; else the last /think or /no_think of a user or system message decides, else the
    template's default. Only hybrid models can be switched.
    """
    if template.thinking != "hybrid":
        return template.thinks_by_default
    if thinking is False:
        return False
    switch = last_switch(messages)
    if switch is not None:
        return switch
    return template.thinks_by_default if thinking is None else thinking


def _read_source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}") from error


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(settings).__name__}")
    return settings


def _choose(named: list[Any], folder: Path) -> str:
    """Of several named templates the one called "default"."""
    templates = {item.get("name"): item.get("template") for item in named if isinstance(item, dict)}
    template = templates.get("default") if len(templates) != 1 else next(iter(templates.values()))
    if not isinstance(template, str):
        raise ValueError(f"{folder} has the chat templates {list(templates)}, but none called 'default'")
    return template


def _token(value: object) -> str:
    """A special token of tokenizer_config.json: its text, or a dict with it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
