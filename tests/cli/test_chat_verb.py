"""`pureqwen chat` through pipes: what a message and each command do."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_qwen import FakeQwen, FakeTemplate, Terminal

from pureqwen.chat import Content, Event, Reasoning
from pureqwen.cli import make_app
from pureqwen.cli.chat import Chat
from pureqwen.cli.conversation import Conversation
from pureqwen.cli.errors import run
from pureqwen.cli.page import Page
from pureqwen.cli.terminal import Screen

Run = Callable[..., Any]


@pytest.fixture
def talk(pureqwen: Run) -> Run:
    """`talk("hi", "/exit")`: a chat of these lines."""

    def lines(*messages: str, options: tuple[str, ...] = ()) -> Any:
        return pureqwen("chat", *options, input="".join(f"{message}\n" for message in messages))

    return lines


def test_a_pipe_gets_answers_only_and_remarks_go_to_standard_error(talk: Run) -> None:
    ran = talk("hi", "", "think", "/exit", "never")
    assert (ran.code, ran.out) == (0, "Echo: hi\nEcho: think\n")
    assert ran.err.splitlines()[0] == "pureqwen: 2 tokens, 0.5 tokens/s, first after 0.25 s"
    assert "\x1b" not in ran.out + ran.err


def test_the_end_of_the_input_ends_the_chat(talk: Run) -> None:
    assert talk("hi").code == 0


def test_the_model_sees_the_whole_conversation(talk: Run, fake: FakeQwen) -> None:
    talk("hi", "think", options=("--system", "Be brief."))
    assert fake.asked[1].request == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Echo: hi"},
        {"role": "user", "content": "think"},
    ]


@pytest.mark.parametrize(
    ("line", "sent"), [("//etc/hosts?", "/etc/hosts?"), ("/no_think hi", "/no_think hi")]
)
def test_a_message_may_begin_with_a_slash(line: str, sent: str, talk: Run, fake: FakeQwen) -> None:
    talk(line)
    assert fake.asked[0].request[0]["content"] == sent


def test_an_unknown_command_names_the_nearest_and_is_not_sent(talk: Run, fake: FakeQwen) -> None:
    ran = talk("/regenrate", "/xyzzy", "/exit now")
    assert "there is no command /regenrate: did you mean /regenerate?" in ran.err
    assert "there is no command /xyzzy: /help lists them" in ran.err
    assert "/exit takes nothing behind it" in ran.err
    assert not fake.asked


def test_an_error_is_one_line_and_the_chat_goes_on_without_the_message(talk: Run, fake: FakeQwen) -> None:
    ran = talk("hi", "boom", "still there?")
    assert "pureqwen: error: the prompt has 999 tokens" in ran.err
    assert ran.out.splitlines()[-1] == "Echo: still there?"
    assert [turn["content"] for turn in fake.asked[2].request] == ["hi", "Echo: hi", "still there?"]


def test_a_message_that_failed_is_not_lost(talk: Run, fake: FakeQwen) -> None:
    talk("boom", "/regenerate")
    assert [asked.request[-1]["content"] for asked in fake.asked] == ["boom", "boom"]
    chat = Chat(fake, Conversation(model="fake"), Screen(Terminal()))  # type: ignore[arg-type]
    chat.take("boom")
    assert chat.take_draft() == "boom"  # the editor's next line begins with it


def test_a_mistake_of_ours_is_not_swallowed(pureqwen: Run) -> None:
    with pytest.raises(KeyError):
        pureqwen("chat", input="bug\n")


def test_system_is_shown_set_and_removed(talk: Run, fake: FakeQwen) -> None:
    ran = talk("/system", "/system Be brief.", "hi", "/system none", "hi")
    assert ran.out.splitlines()[:2] == ["no system message", "system: Be brief."]
    assert fake.asked[0].request[0] == {"role": "system", "content": "Be brief."}
    assert fake.asked[1].request[0]["role"] == "user"


def test_regenerate_asks_the_same_again(talk: Run, fake: FakeQwen) -> None:
    ran = talk("/regenerate", "hi", "/regenerate")
    assert "there is nothing to answer yet" in ran.err
    assert fake.asked[0].request == fake.asked[1].request


def test_undo_takes_back_a_message_and_its_answer(talk: Run, fake: FakeQwen) -> None:
    ran = talk("one", "two", "/undo", "three", "/undo", "/undo", "/undo")
    assert [turn["content"] for turn in fake.asked[2].request] == ["one", "Echo: one", "three"]
    assert "there is nothing to undo" in ran.err


def test_reset_keeps_the_system_message(talk: Run, fake: FakeQwen) -> None:
    talk("/system S", "one", "/reset", "two")
    assert [turn["content"] for turn in fake.asked[1].request] == ["S", "two"]


def test_set_changes_one_parameter_and_none_unsets_it(talk: Run, fake: FakeQwen) -> None:
    ran = talk(
        "/set temperature 0",
        "a",
        "/set temperature none",
        '/set stop ["x", "\\n"]',
        "/set logit-bias 5=-1",
        "b",
    )
    assert ran.out.splitlines()[0] == "temperature: 0.0"
    assert fake.asked[0].params.temperature == 0.0
    assert fake.asked[1].params.temperature is None
    assert fake.asked[1].params.stop == ("x", "\n")
    assert fake.asked[1].params.logit_bias == {5: -1.0}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/set temperature hot", "temperature is hot: it must be a number"),
        ("/set top_k 1.5", "top_k is 1.5: it must be an integer"),
        ("/set top_p 2", "top_p is 2.0: it must be"),
        ("/set temprature 1", "there is no parameter temprature: did you mean temperature?"),
        ("/set ignore_eos perhaps", "ignore_eos is perhaps: it must be on or off"),
        ("/set logit_bias 5", "logit_bias is 5: it must be ID=VALUE"),
        ('/set stop "', 'stop is ": '),
    ],
)
def test_a_bad_value_is_one_clear_line(line: str, said: str, talk: Run, fake: FakeQwen) -> None:
    ran = talk(line, "hi")
    assert ran.err.splitlines()[0].startswith(f"pureqwen: error: {said}")
    assert ran.out == "Echo: hi\n"


def test_set_alone_lists_what_is_set_and_the_models_defaults(talk: Run) -> None:
    lines = talk("/set top_k 5", "/set").out.splitlines()
    assert lines[1:3] == ["temperature          0.6 (the model's default)", "top_k                5"]


def test_thinking_is_shown_folded_hidden_or_turned_off(talk: Run, fake: FakeQwen) -> None:
    ran = talk(
        "/thinking show",
        "think",
        "/thinking fold",
        "think",
        "/thinking on",
        "think",
        "/thinking off",
        "/thinking x",
    )
    blocks = ran.out
    assert "<think>\nLet me see.\n</think>\n\nEcho: think\n" in blocks
    assert "thinking: default, fold\nthought 0.0 s, 2 tokens\nEcho: think\n" in blocks
    assert [asked.thinking for asked in fake.asked] == [None, None, True]
    assert "fake always thinks: take fake-instruct instead" in ran.err
    assert "/thinking takes show, fold, hide, on, off, default, not x" in ran.err


def test_a_mode_that_the_model_lacks_is_refused_at_the_start(pureqwen: Run) -> None:
    ran = pureqwen("chat", "--no-thinking", input="hi\n")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "pureqwen: error: fake always thinks: take fake-instruct instead\n"


def test_a_base_model_can_not_chat(pureqwen: Run, fake: FakeQwen) -> None:
    fake.template = None
    assert "has no chat template" in pureqwen("chat", input="hi\n").err


def test_a_budget_holds_for_the_turns_that_follow_and_can_be_lifted(talk: Run, fake: FakeQwen) -> None:
    ran = talk("/budget", "hi", "/budget 64", "hi", "hi", "/budget off", "hi")
    assert [asked.params.thinking_budget for asked in fake.asked] == [None, 64, 64, None]
    lines = [line for line in ran.out.splitlines() if "budget" in line]
    none = "no thinking budget"
    assert lines == [none, "thinking budget: 64 tokens, then the answer follows", none]


@pytest.mark.parametrize("value", ["-3", "ten", "1.5", "1e3", "²", "99999999999999999999", "64 off"])
def test_a_budget_that_is_none_is_one_clear_line(value: str, talk: Run, fake: FakeQwen) -> None:
    ran = talk(f"/budget {value}", "hi")
    said = f"pureqwen: error: /budget takes a number of tokens, or off, not {value}"
    assert ran.err.splitlines()[0] == said
    assert fake.asked[0].params.thinking_budget is None


def test_a_model_that_does_not_think_takes_no_budget(talk: Run, fake: FakeQwen) -> None:
    fake.tokenizer.token_id = lambda text: None
    assert "error: fake does not think: there is nothing to set a budget for" in talk("/budget 5").err


def test_a_budget_says_when_the_thinking_is_off_anyway(talk: Run, fake: FakeQwen) -> None:
    fake.template = FakeTemplate()
    fake.template.check_thinking = lambda thinking: None
    ran = talk("/thinking off", "/budget 5")
    assert ran.out.splitlines()[1].endswith("answer follows (thinking is off: /thinking on)")


def test_markdown_is_for_terminals(talk: Run) -> None:
    ran = talk("/markdown", "/markdown on", "/markdown x", "/markdown off", "page")
    assert ran.out.splitlines()[:2] == ["markdown: off", "markdown: off"]
    assert "answers are drawn on a terminal only, and here is none" in ran.err
    assert "/markdown takes on or off, not x" in ran.err
    assert "Some **bold** words\non two lines.\n\n| name | value |\n" in ran.out  # as the model wrote it


def test_the_pocket_answers_when_its_budget_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b"/budget 8\nWhat is 347 * 86?\n/stats\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert run(make_app(), ["chat"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].strip() and "thinking" not in out[1]
    [count] = [line for line in out if line.startswith("answers' tokens")]
    thought = int(count.split("of which ")[1].split()[0])
    assert 8 <= thought < 60  # the budget, and the sentence that closes it


def test_stats_count_tokens_and_speed(talk: Run) -> None:
    out = talk("a", "think a", "/stats").out
    assert "answers            2" in out
    assert "answers' tokens    7, of which 2 were thinking" in out
    assert "of 100 tokens are used" in out


def test_help_lists_every_command(talk: Run) -> None:
    from pureqwen.cli.commands import NAMES

    out = talk("/help").out
    assert all(f"{name} " in out for name in NAMES)


def test_a_saved_chat_goes_on_where_it_stopped(talk: Run, fake: FakeQwen, tmp_path: Path) -> None:
    file = tmp_path / "my chat.json"
    talk("/system S", "think", "long", "/set top_k 5", "/set logit_bias 5=1", f"/save '{file}'")
    saved = json.loads(file.read_text())
    assert saved["model"] == "fake"
    assert saved["params"] == {"top_k": 5, "logit_bias": {"5": 1.0}}
    assert saved["messages"][4]["finish_reason"] == "length"
    ran = talk(f"/load {file}", "go on")
    assert "5 messages" in ran.out
    asked = fake.asked[-1]
    assert [turn["role"] for turn in asked.request] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert asked.request[2]["reasoning_content"] == "Let me see."
    assert asked.params.top_k == 5 and asked.params.logit_bias == {5: 1.0}
    assert "finish_reason" not in asked.request[4]


def test_saving_replaces_a_saved_chat_but_no_other_file(talk: Run, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("my notes")
    ran = talk(
        "hi",
        f"/save {file}",
        f"/save {tmp_path / 'c'}",
        f"/save {tmp_path / 'c'}",
        "/save",
        f"/save {tmp_path}/n/c",
    )
    assert file.read_text() == "my notes"
    assert "notes.txt exists and is no saved chat" in ran.err
    assert ran.out.count("saved in") == 2
    assert "give the name of a file" in ran.err
    assert "No such file or directory" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "notes.txt"]


GOOD = {"format": "pureqwen chat 1", "model": "fake", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "x"}, "is no saved chat"),
        ({"messages": None}, "messages must be a list, not NoneType"),
        ({"messages": [{"role": "root", "content": ""}]}, "message 0 must be an object whose role is one of"),
        ({"messages": [{"role": "user", "content": 5}]}, "message 0: content must be a text, not int"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
            "message 1 is a system",
        ),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": 5}]}, "tool_calls must be a list"),
        ({"model": 5}, "model must be a text"),
        ({"params": {"temperature": -1}}, "temperature is -1"),
        ({"params": {"heat": 1}}, "params must be an object with names of sampling parameters only"),
        ({"params": {"logit_bias": {"a": 1}}}, "chat.json: "),
        ({"thinking": 1}, "thinking is 1: it must be one of null, true, false"),
        ({"show": []}, "show is []: it must be one of"),
    ],
)
def test_a_file_that_is_no_chat_is_refused_and_the_chat_goes_on(
    change: dict[str, Any], said: str, talk: Run, fake: FakeQwen, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(GOOD | change))
    ran = talk("one", f"/load {file}", "two")
    assert said in ran.err
    assert len(fake.asked[-1].request) == 3


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_broken_file_is_refused(content: bytes, talk: Run, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_bytes(content)
    assert "is not JSON" in talk(f"/load {file}").err


def test_a_line_that_is_not_utf8_does_not_end_the_chat(pureqwen: Run) -> None:
    ran = pureqwen("chat", input=b"a\xff\nhi\n")
    assert "the line is not UTF-8" in ran.err
    assert ran.out == "Echo: hi\n"


def test_ctrl_c_in_a_pipe_exits_130_with_what_there_is(pureqwen: Run) -> None:
    ran = pureqwen("chat", input="stop\nhi\n")
    assert (ran.code, ran.out) == (130, "half an\n")


class TestOnATerminal:
    @pytest.fixture
    def chat(self, fake: FakeQwen, monkeypatch: pytest.MonkeyPatch) -> Chat:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr("sys.stdin", Terminal())
        return Chat(fake, Conversation(model="fake"), Screen(Terminal()))  # type: ignore[arg-type]

    def test_ctrl_c_keeps_the_partial_answer_and_marks_it(self, chat: Chat, fake: FakeQwen) -> None:
        chat.take("stop")
        assert chat.conversation.turns[-1] == {
            "role": "assistant",
            "content": "half an",
            "finish_reason": "interrupted",
        }
        assert fake.streams[0].closed
        assert "stopped; what there is stays in the chat" in chat.screen.stream.getvalue()  # type: ignore[attr-defined]
        chat.take("hi")
        assert "finish_reason" not in fake.asked[1].request[1]

    def test_ctrl_c_before_the_first_token_gives_the_message_back(self, chat: Chat) -> None:
        chat.take("nothing")
        assert chat.conversation.turns == []
        assert chat.take_draft() == "nothing"

    def test_regenerating_keeps_the_old_answer_when_the_new_one_fails(self, chat: Chat) -> None:
        chat.take("hi")
        chat.conversation.turns[0]["content"] = "boom"
        chat.take("/regenerate")
        assert [turn["role"] for turn in chat.conversation.turns] == ["user", "assistant"]

    def test_the_thinking_is_dimmed_and_the_answer_is_not(self, chat: Chat) -> None:
        chat.take("think")
        shown = chat.screen.stream.getvalue()  # type: ignore[attr-defined]
        assert "\x1b[2mLet me\x1b[22m\x1b[2m see.\x1b[22m\n\nEcho: think\n" in shown

    def test_a_folded_thought_replaces_the_line_that_announced_it(self, chat: Chat) -> None:
        chat.conversation.shown = "fold"
        chat.take("think")
        shown = chat.screen.stream.getvalue()  # type: ignore[attr-defined]
        assert "thinking ...\x1b[22m\r\x1b[K\x1b[2mthought 0.0 s, 2 tokens\x1b[22m\nEcho: think\n" in shown

    def test_an_answer_is_drawn_or_shown_as_it_comes(self, chat: Chat) -> None:
        chat.take("page")
        chat.take("/markdown off")
        before = len(chat.screen.stream.getvalue())  # type: ignore[attr-defined]
        chat.take("page")
        shown = chat.screen.stream.getvalue()  # type: ignore[attr-defined]
        assert "**bold**" not in shown[:before] and "Some \x1b[1mbold\x1b[0m words" in shown[:before]
        assert "Some **bold** words" in shown[before:]

    def test_an_answer_that_fails_on_its_way_leaves_what_was_said_and_no_more_is_coming(
        self, chat: Chat, fake: FakeQwen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(text: str) -> Iterator[Event]:
            yield Content("half an")
            raise MemoryError("no memory left")

        monkeypatch.setattr("fake_qwen.script", fails)
        monkeypatch.setattr("pureqwen.cli.gallery.PATIENCE", 0.0)
        chat.take("hi")
        shown = chat.screen.stream.getvalue()  # type: ignore[attr-defined]
        assert "\r\x1b[Khalf an\n" in shown and "error: no memory left" in shown

    def test_long_remarks_are_broken_between_words(self, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "30")
        chat.take("/help")
        assert "Enter sends, Alt-Enter begins\na new line" in chat.screen.stream.getvalue()  # type: ignore[attr-defined]

    @pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_no_escape_is_sent_where_colour_is_unwanted(
        self, name: str, value: str, chat: Chat, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, value)
        page = Page(Screen(stream := Terminal()), thinking="show")
        page.show(Reasoning("a"))
        page.show(Content("b"))
        page.finish()
        assert stream.getvalue() == "<think>\na\n</think>\n\nb"
