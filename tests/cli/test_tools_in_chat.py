"""/tool: definitions from a file, the model's calls, and who answers them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_qwen import FakeQwen, FakeTemplate, Terminal

from pureqwen.chat import ToolCall
from pureqwen.cli.chat import Chat
from pureqwen.cli.conversation import Conversation
from pureqwen.cli.terminal import Screen
from pureqwen.cli.tools import answer_of, ask, checked_tools, signature

Run = Callable[..., Any]
WEATHER = {
    "name": "weather",
    "description": "The weather\nin a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": ["string", "null"]}, "any": {}},
        "required": ["city"],
    },
}
CALL = ToolCall("weather", {"city": "Oslo"})


@pytest.fixture
def talk(pureqwen: Run) -> Run:
    """`talk("hi", "/exit")`: a chat of these lines."""

    def lines(*messages: str, options: tuple[str, ...] = ()) -> Any:
        return pureqwen("chat", *options, input="".join(f"{message}\n" for message in messages))

    return lines


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my tools.json"
    path.write_text(json.dumps(WEATHER))
    return path


@pytest.mark.parametrize(
    "content",
    [WEATHER, [WEATHER], {"type": "function", "function": WEATHER}, {"type": "function", **WEATHER}],
)
def test_one_tool_or_a_list_bare_or_in_openai_s_form_is_the_same(content: Any) -> None:
    assert checked_tools(content) == [{"type": "function", "function": WEATHER}]


def test_the_model_is_told_of_the_tools_and_they_can_be_listed_and_removed(
    talk: Run, fake: FakeQwen, file: Path
) -> None:
    ran = talk("/tool", f"/tool {file}", "hi", "/tool", "/tool off", "hi")
    listed = ["weather(city: string, unit?: string|null, any?: any)", "    The weather in a city."]
    none = "no tools; /tool FILE loads their JSON schemas"
    assert ran.out.splitlines() == [none, *listed, "Echo: hi", *listed, none, "Echo: hi"]
    assert [asked.tools and asked.tools[0]["function"]["name"] for asked in fake.asked] == ["weather", None]


def test_a_second_file_adds_its_tools_and_replaces_those_of_the_same_name(
    talk: Run, fake: FakeQwen, file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"name": "clock"}, {"name": "weather"}]))
    talk(f"/tool '{file}'", f"/tool {other}", "hi")
    assert [tool["function"] for tool in fake.asked[0].tools] == [{"name": "clock"}, {"name": "weather"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "tools.json is not JSON: "),
        ("[NaN]", "tools.json is not JSON: NaN is not JSON"),
        ("[" * 100_000, "tools.json is not JSON: "),
        ("\x00", "tools.json is not JSON: "),
        ("[]", "tools.json: the list of tools is empty"),
        ("5", 'tools.json: the tool must be {"type": "function", "function": {"name": ...}}, or'),
        ("{}", 'tools.json: the tool has no name: "name" must be a text'),
        ('[{"name": "a"}, {"name": ""}]', 'tools.json: tool 2 has no name: "name" must be a text'),
        ('{"type": "retrieval", "function": {"name": "a"}}', "tools.json: the tool must be"),
        ('{"function": "a"}', "tools.json: the tool must be"),
        ('{"name": "a", "parameters": []}', "tools.json: the tool, a: parameters must be an object"),
        ('{"name": "a", "description": 5}', "tools.json: the tool, a: description must be a text"),
        ('[{"name": "a"}, {"name": "a"}]', "tools.json: two tools are called a"),
    ],
)
def test_a_bad_file_is_one_clear_line_and_the_chat_goes_on(
    content: str, said: str, talk: Run, fake: FakeQwen, tmp_path: Path
) -> None:
    (tmp_path / "tools.json").write_text(content)
    ran = talk(f"/tool {tmp_path / 'tools.json'}", "hi")
    assert said in ran.err.splitlines()[0] and "pureqwen: error: " in ran.err.splitlines()[0]
    assert len(ran.err.splitlines()) == 2  # and the line with the speed
    assert ran.out == "Echo: hi\n" and fake.asked[0].tools is None


def test_a_missing_file_is_one_clear_line(talk: Run, tmp_path: Path) -> None:
    ran = talk("/tool nowhere.json", f"/tool {tmp_path}")
    assert ran.err.splitlines() == [
        "pureqwen: error: nowhere.json: No such file or directory",
        f"pureqwen: error: {tmp_path}: Is a directory",
    ]


def test_a_template_without_a_place_for_tools_says_so_instead_of_dropping_them(
    pureqwen: Run, talk: Run, fake: FakeQwen, file: Path
) -> None:
    fake.template = FakeTemplate()
    fake.template.takes_tools = False
    said = "fake can't call tools: its chat template has no place for them"
    assert said in talk(f"/tool {file}").err
    assert said in talk(options=("--tools", str(file))).err
    assert said in pureqwen("generate", "hi", "--tools", str(file)).err


def test_in_a_pipe_the_next_line_is_the_answer_and_the_model_goes_on(talk: Run, fake: FakeQwen) -> None:
    ran = talk("tool", "", "20 degrees", "thanks")
    assert ran.out.splitlines() == [
        '{"name": "weather", "arguments": {"city": "Oslo"}}',
        "Echo: 20 degrees",
        "Echo: thanks",
    ]
    assert "finish: tool_calls" in ran.err
    called, result = fake.asked[1].request[1:]
    assert called["tool_calls"][0]["function"]["name"] == "weather"
    assert result == {"role": "tool", "content": "20 degrees"}


def test_several_calls_are_answered_one_after_the_other(talk: Run, fake: FakeQwen) -> None:
    talk("tools", "20 degrees", "noon")
    assert [turn["role"] for turn in fake.asked[1].request] == ["user", "assistant", "tool", "tool"]
    assert [turn["content"] for turn in fake.asked[1].request[2:]] == ["20 degrees", "noon"]


def test_the_end_of_the_input_before_an_answer_is_told(talk: Run) -> None:
    ran = talk("tool")
    assert ran.code == 0
    assert "the input ended where weather should have answered" in ran.err


def test_a_command_gets_the_arguments_and_its_output_is_the_answer() -> None:
    assert answer_of("!cat\n", CALL) == '{"city": "Oslo"}'
    assert answer_of("!echo $TOOL", CALL) == "weather"
    assert answer_of("!true", CALL) == ""
    assert answer_of("!!cat", CALL) == "!cat"
    assert answer_of(" \n", CALL) is None


def test_what_the_model_writes_is_never_run(tmp_path: Path) -> None:
    hostile = ToolCall("$(touch a)", {"city": f"'; touch {tmp_path}/b; echo '$(touch {tmp_path}/c)"})
    assert json.loads(answer_of("!cat", hostile) or "") == hostile.arguments
    assert answer_of('!echo "$TOOL"', hostile) == "$(touch a)"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("!exit 3", "the command ended with 3: exit 3"),
        ("!", "behind the ! a command is missing"),
        ("! ", "behind the ! a command is missing"),
        (r"!printf '\377'", "what the command printed is not UTF-8"),
    ],
)
def test_a_command_that_fails_is_told_and_another_answer_asked_for(
    line: str, said: str, talk: Run, fake: FakeQwen
) -> None:
    told: list[str] = []
    lines = iter([line, "20 degrees"])
    assert ask([CALL], lambda prompt: next(lines), told.append) == ["20 degrees"]
    assert told[0].startswith(f"error: {said}") and len(told) == 1
    ran = talk(
        "tool", line, "hi"
    )  # in a pipe nobody sees that: the call stays, and the next line is a message
    assert f"pureqwen: error: {said}" in ran.err
    assert ran.out.splitlines()[-1] == "Echo: hi" and len(fake.asked) == 2


def test_the_prompt_names_the_tool_and_its_place_and_is_one_line() -> None:
    prompts: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        return "x"

    ask([CALL, ToolCall("a\n\x1b[2Jb", {})], read, None)
    ask([CALL], read, None)
    assert prompts == ["weather 1/2> ", "a \\x1b[2Jb 2/2> ", "weather> "]


def test_a_saved_chat_keeps_its_tools(talk: Run, fake: FakeQwen, file: Path, tmp_path: Path) -> None:
    chat = tmp_path / "chat.json"
    talk(f"/tool {file}", "hi", f"/save {chat}")
    talk(f"/load {chat}", "hi")
    assert fake.asked[1].tools == fake.asked[0].tools != None  # noqa: E711
    saved = json.loads(chat.read_text()) | {"tools": [{"name": 5}]}
    chat.write_text(json.dumps(saved))
    assert 'chat.json: the tool has no name: "name" must be a text' in talk(f"/load {chat}").err


@pytest.mark.parametrize("parameters", [{}, {"properties": []}, {"properties": {"a": 5}, "required": 1}])
def test_odd_schemas_are_listed_without_a_complaint(parameters: Any) -> None:
    [tool] = checked_tools({"name": "f", "parameters": parameters})
    assert signature(tool) in ("f()", "f(a?: any)")


class Lines:
    """A reader that gives these lines, or raises them."""

    def __init__(self, *lines: Any) -> None:
        self.lines = list(lines)

    def read(self, draft: str, prompt: str = "> ") -> str:
        line = self.lines.pop(0)
        if not isinstance(line, str):
            raise line
        return line


class TestOnATerminal:
    @pytest.fixture
    def chat(self, fake: FakeQwen, monkeypatch: pytest.MonkeyPatch) -> Chat:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr("sys.stdin", Terminal())
        return Chat(fake, Conversation(model="fake"), Screen(Terminal()))  # type: ignore[arg-type]

    def shown(self, chat: Chat) -> str:
        return chat.screen.stream.getvalue()  # type: ignore[attr-defined, no-any-return]

    def test_a_call_is_shown_with_its_name_and_arguments(self, chat: Chat) -> None:
        chat.run(Lines("tool", "20 degrees", EOFError()))
        assert 'calls weather {"city": "Oslo"}\n' in self.shown(chat)
        assert "type its answer, or !COMMAND that gets the arguments" in self.shown(chat)
        assert "Echo: 20 degrees" in self.shown(chat)

    def test_many_arguments_are_indented(self, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "25")
        chat.run(Lines("tool", "20 degrees", EOFError()))
        assert 'calls weather\n{\n  "city": "Oslo"\n}\n' in self.shown(chat)

    def test_ctrl_c_leaves_the_call_without_an_answer(self, chat: Chat, fake: FakeQwen) -> None:
        chat.run(Lines("tools", "20 degrees", KeyboardInterrupt(), "hi", EOFError()))
        assert "the call stays without an answer: /regenerate asks again" in self.shown(chat)
        assert [turn["role"] for turn in fake.asked[1].request] == ["user", "assistant", "user"]

    def test_an_answer_that_can_not_be_taken_leaves_the_call_where_it_was(self, chat: Chat) -> None:
        chat.run(Lines("tool", "boom", EOFError()))
        assert "error: the prompt has 999 tokens" in self.shown(chat)
        assert [turn["role"] for turn in chat.conversation.turns] == ["user", "assistant"]

    def test_regenerate_asks_the_tool_again(self, chat: Chat, fake: FakeQwen) -> None:
        chat.run(Lines("tool", KeyboardInterrupt(), "/regenerate", "20 degrees", EOFError()))
        assert fake.asked[2].request[-1] == {"role": "tool", "content": "20 degrees"}
