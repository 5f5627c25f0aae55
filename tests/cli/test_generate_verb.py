"""`pureqwen generate`: the answer and nothing else on standard output."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_qwen import HOSTILE, FakeQwen, Terminal, script

from pureqwen.cli.options import ModelOptions
from pureqwen.cli.page import Page
from pureqwen.cli.terminal import Screen

Run = Callable[..., Any]


def test_only_the_answer_reaches_standard_output(pureqwen: Run, fake: FakeQwen) -> None:
    ran = pureqwen("generate", "hello there")
    assert (ran.code, ran.out, ran.err) == (0, "Echo: hello there\n", "")
    assert fake.asked[0].request == [{"role": "user", "content": "hello there"}]


def test_the_thinking_is_not_printed_unless_asked_for(pureqwen: Run) -> None:
    assert pureqwen("generate", "think hard").out == "Echo: think hard\n"


def test_shown_thinking_stands_between_tags(pureqwen: Run) -> None:
    ran = pureqwen("generate", "--show-thinking", "think hard")
    assert ran.out == "<think>\nLet me see.\n</think>\n\nEcho: think hard\n"


def test_output_ends_with_exactly_one_newline(pureqwen: Run) -> None:
    assert pureqwen("generate", "lines").out == "one\n\ntwo\n"
    assert pureqwen("generate", "--raw", "lines").out == "one\n\ntwo\n"


def test_raw_continues_the_text_itself(pureqwen: Run, fake: FakeQwen) -> None:
    pureqwen("generate", "--raw", "Once upon")
    assert fake.asked[0].request == "Once upon"
    assert fake.asked[0].thinking is None


def test_a_model_without_a_template_continues_the_text(pureqwen: Run, fake: FakeQwen) -> None:
    fake.template = None
    assert pureqwen("generate", "Once upon").code == 0
    assert fake.asked[0].request == "Once upon"


@pytest.mark.parametrize("options", [["--system", "x"], ["--thinking"], ["--no-thinking"]])
def test_what_only_a_chat_knows_is_refused_for_raw_text(
    options: list[str], pureqwen: Run, fake: FakeQwen
) -> None:
    ran = pureqwen("generate", "--raw", "a", *options)
    assert ran.code == 1
    assert ran.err.startswith("pureqwen: error: --")
    fake.template = None
    assert pureqwen("generate", "a", *options).code == 1
    assert not fake.asked


def test_a_system_message_stands_first(pureqwen: Run, fake: FakeQwen) -> None:
    pureqwen("generate", "a", "--system", "- Be brief.")
    assert fake.asked[0].request[0] == {"role": "system", "content": "- Be brief."}


def test_every_sampling_parameter_arrives(pureqwen: Run, fake: FakeQwen) -> None:
    flags = """--temperature 0.5 --top-k 5 --top-p 0.9 --min-p 0.1 --repetition-penalty 1.1
        --presence-penalty -1.5 --frequency-penalty 0.5 --logit-bias 15=-3.5 --logit-bias 16=2 --seed 3
        --max-tokens 50 --min-tokens 2 --stop --- --stop b
        --stop-token-ids 4 --stop-token-ids 5 --ignore-eos --logprobs --top-logprobs 3
        --thinking-budget 10 --thinking-end .</think>. --json"""
    assert pureqwen("generate", "a", *flags.split()).code == 0
    params = fake.asked[0].params
    assert params.logit_bias == {15: -3.5, 16: 2.0}
    assert params.stop == ("---", "b")
    assert params.stop_token_ids == (4, 5)
    values = {name: getattr(params, name) for name in params.__dataclass_fields__}
    assert not [name for name, value in values.items() if value is None]


def test_nothing_is_set_that_was_not_asked_for(pureqwen: Run, fake: FakeQwen) -> None:
    pureqwen("generate", "a")
    params = fake.asked[0].params
    assert all(getattr(params, name) is None for name in params.__dataclass_fields__)


@pytest.mark.parametrize(
    "flags",
    [
        "--temperature -1",
        "--temperature nan",
        "--top-p 0",
        "--logit-bias 5",
        "--logit-bias a=b",
        "--logprobs",
        "--regex a --json-schema b",
        "--json-schema /no/such/file",
    ],
)
def test_a_bad_value_is_one_line_and_no_model_is_loaded(flags: str, pureqwen: Run, fake: FakeQwen) -> None:
    ran = pureqwen("generate", "a", *flags.split())
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("pureqwen: error: ")
    assert not fake.asked


def test_json_holds_every_field_of_the_result(pureqwen: Run) -> None:
    ran = pureqwen("generate", "--json", "--top-logprobs", "1", "think")
    answer = json.loads(ran.out)
    assert answer["model"] == "fake"
    assert answer["content"] == "Echo: think"
    assert answer["reasoning"] == "Let me see."
    assert answer["finish_reason"] == "stop"
    assert answer["logprobs"][0]["logprob"] is None  # JSON has no -Infinity
    assert answer["usage"]["reasoning_tokens"] == 2
    assert answer["message"]["role"] == "assistant"
    wanted = {"text", "tool_calls", "token_ids", "timings", "seed"}
    assert wanted <= set(answer)


def test_thinking_that_took_all_tokens_is_reported_not_passed_off_as_an_answer(pureqwen: Run) -> None:
    ran = pureqwen("generate", "think, cut")
    assert (ran.code, ran.out) == (0, "\n")
    assert "no answer: the thinking took all 2 tokens" in ran.err


def test_an_answer_that_was_cut_says_so(pureqwen: Run) -> None:
    ran = pureqwen("generate", "long")
    assert ran.out == "It was cut\n"
    assert (
        ran.err
        == "pureqwen: notice: the answer was cut after 3 tokens, at --max-tokens or the end of the context\n"
    )


def test_a_tool_call_is_printed_as_json(pureqwen: Run, fake: FakeQwen, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text('[{"type": "function", "function": {"name": "weather"}}]')
    ran = pureqwen("generate", "tool", "--tools", str(file))
    assert json.loads(ran.out) == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert fake.asked[0].tools[0]["function"]["name"] == "weather"


def test_a_schema_or_a_pattern_is_the_form_of_the_answer(
    pureqwen: Run, fake: FakeQwen, tmp_path: Path
) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    pureqwen("generate", "a", "--json-schema", str(file))
    pureqwen("generate", "a", "--regex", "-?[0-9]+")
    pureqwen("generate", "a")
    assert [asked.constraint for asked in fake.asked] == [
        ("schema", {"type": "object"}),
        ("regex", "-?[0-9]+"),
        None,
    ]
    both = pureqwen("generate", "a", "--json-schema", str(file), "--regex", "a")
    assert (both.code, len(fake.asked)) == (1, 3)
    assert "not both" in both.err
    file.write_text("{")
    assert "schema.json is not JSON" in pureqwen("generate", "a", "--json-schema", str(file)).err


@pytest.mark.parametrize("content", ["{", "{}", "[]", "[1]"])
def test_a_tools_file_that_is_none_is_refused(content: str, pureqwen: Run, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text(content)
    assert pureqwen("generate", "tool", "--tools", str(file)).code == 1


def test_ctrl_c_keeps_what_was_printed_and_exits_130(pureqwen: Run) -> None:
    ran = pureqwen("generate", "stop")
    assert (ran.code, ran.out) == (130, "half an\n")
    answer = pureqwen("generate", "stop", "--json")
    assert answer.code == 130
    assert json.loads(answer.out)["finish_reason"] == "interrupted"


class TestThePrompt:
    def test_comes_from_standard_input(self, pureqwen: Run, fake: FakeQwen) -> None:
        pureqwen("generate", input="What is 347 * 86?\n")
        assert fake.asked[0].request[0]["content"] == "What is 347 * 86?"

    def test_comes_from_a_file(self, pureqwen: Run, fake: FakeQwen, tmp_path: Path) -> None:
        file = tmp_path / "prompt.txt"
        file.write_bytes(b"\xef\xbb\xbfWhy?\r\nBecause.\r\n\r\n")
        pureqwen("generate", "--file", str(file), input="not this")
        assert fake.asked[0].request[0]["content"] == "Why?\r\nBecause."

    def test_may_have_a_file_before_the_argument(self, pureqwen: Run, fake: FakeQwen, tmp_path: Path) -> None:
        file = tmp_path / "prompt.txt"
        file.write_text("a text\n")
        pureqwen("generate", "Translate it.", "--file", str(file))
        assert fake.asked[0].request[0]["content"] == "a text\n\nTranslate it."
        pureqwen("generate", "Translate it.", "--file", "-", input="piped\n")
        assert fake.asked[1].request[0]["content"] == "piped\n\nTranslate it."

    def test_may_be_a_negative_number(self, pureqwen: Run, fake: FakeQwen) -> None:
        pureqwen("generate", "-5")
        pureqwen("generate", "--", "--what")
        assert [asked.request[0]["content"] for asked in fake.asked] == ["-5", "--what"]

    @pytest.mark.parametrize("arguments", [[], [""], ["--file", "-"]])
    def test_that_is_empty_is_an_error(self, arguments: list[str], pureqwen: Run) -> None:
        ran = pureqwen("generate", *arguments, input="\n")
        assert ran.code == 1
        assert "the prompt is empty" in ran.err

    def test_that_is_not_utf8_is_an_error(self, pureqwen: Run) -> None:
        assert "standard input is not UTF-8" in pureqwen("generate", input=b"a\xff").err
        assert "the prompt is not UTF-8" in pureqwen("generate", "a\udcff").err

    def test_in_a_file_that_does_not_exist_is_one_line(self, pureqwen: Run) -> None:
        ran = pureqwen("generate", "--file", "/no/such/file")
        assert (ran.code, ran.err) == (1, "pureqwen: error: /no/such/file: No such file or directory\n")

    def test_does_not_wait_for_a_pipe_that_says_nothing(
        self, monkeypatch: pytest.MonkeyPatch, fake: FakeQwen, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from pureqwen.cli import prompt

        read, write = os.pipe()
        monkeypatch.setattr(prompt, "PATIENCE", 0.05)
        with open(read, "rb") as stream, open(write, "wb") as writer:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
            assert prompt.read_prompt("Why?", None) == "Why?"
            assert "open but silent" in capsys.readouterr().err
            writer.write(b"a diff\n")
            writer.flush()
            writer.close()
            assert prompt.read_prompt("Why?", None) == "a diff\n\nWhy?"


@pytest.mark.parametrize("compile", [True, False])
def test_compile_reaches_the_model(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import pureqwen.qwen

    called: list[str] = []
    loaded = SimpleNamespace(
        compile=lambda: called.append("compile"), config=SimpleNamespace(num_parameters=lambda: 10**9)
    )
    monkeypatch.setattr(pureqwen.qwen, "load", lambda *_, **__: loaded)
    assert ModelOptions(compile=compile, speculative=4).load() is loaded
    assert called == ["compile"] * compile
    assert loaded.speculative == 4


class TestAModelThatWritesEscapes:
    def page(self, stream: io.StringIO, *, markdown: bool = False) -> str:
        page = Page(Screen(stream), thinking="show", markdown=markdown)
        for event in script("escape"):
            page.show(event)
        page.finish()
        return stream.getvalue()

    @pytest.mark.parametrize("markdown", [False, True])
    def test_can_not_command_the_terminal(self, markdown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")  # so that no escape is our own
        shown = self.page(Terminal(), markdown=markdown)
        assert not [c for c in shown if ord(c) < 32 or 127 <= ord(c) < 160]
        assert "\\x1b]0;title\\x07\\x1b[2J\\x9b31mc" in shown
        assert "a[bold]b[/]" in shown and ":smile:" in shown and "你好" in shown

    def test_reaches_a_pipe_unchanged(self) -> None:
        assert self.page(io.StringIO()) == HOSTILE
