"""The command as a process: exit codes, signals, broken pipes, and what it takes to start."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint

import pureqwen
import pureqwen.cli

HERE = Path(__file__).parent
FAKE = [sys.executable, str(HERE / "fake_qwen.py")]
REAL = [sys.executable, "-m", "pureqwen"]


def run(*command: str, input: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(command, input=input, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint.write(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize("verb", [["--help"], ["--version"], ["models"], ["generate", "--help"], []])
def test_help_and_tables_do_not_wait_for_torch(verb: list[str]) -> None:
    code = f"import sys; sys.argv[1:] = {verb}; import pureqwen.cli, atexit\n"
    code += "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\npureqwen.cli.main()"
    ran = run(sys.executable, "-c", code)
    assert (ran.returncode, ran.stderr) == (0, "False\n")
    assert ran.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["generat"], 2, 'Unknown command "generat". Did you mean "generate"?'),
        (["generate", "--temprature", "1"], 2, "Unknown option: --temprature. Did you mean --temperature?"),
        (
            ["generate", "--temperature", "hot"],
            2,
            'unable to convert "hot" into float. See pureqwen generate --help.',
        ),
        (["generate", "two", "words"], 2, "A prompt of several words needs quotes."),
        (["info"], 2, "MODEL requires an argument"),
        (["generate", "hi", "--model", "./nowhere"], 1, "no such folder: nowhere"),
        (["generate", "hi", "--model", "no/such"], 1, "HF_HUB_OFFLINE is set"),
        (["generate", "hi", "--top-p", "2"], 1, "top_p is 2.0: it must be"),
        (["generate", "hi", "--device", "gpu"], 1, "device 'gpu' can't be used here: Expected one of"),
        (["generate", "hi", "--device", "cuda:77"], 1, "device 'cuda:77' can't be used here: "),
        (["generate", "hi", "--context", "0"], 1, "context is 0: it must be 1 to"),
        (["download", "nothing"], 1, "is neither a folder"),
        (["train", "./nowhere", "data.jsonl", "--out", "x"], 1, "no such folder: nowhere"),
        (["train", "x", "y", "--out", "z", "--batch-size", "0"], 1, "batch_size is 0: it must be"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error_and_a_code(
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert pureqwen.cli.errors.run(pureqwen.cli.make_app(), arguments) == code
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert printed.err.startswith("pureqwen: error: ")
    assert said in printed.err


def test_the_process_ends_with_the_code() -> None:
    ran = run(*REAL, "generate", "hi", "--top-p", "2")
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert run(*REAL, "generat").returncode == 2


def test_a_mistake_of_ours_shows_its_traceback_and_asks_for_a_report() -> None:
    ran = run(*FAKE, "generate", "bug")
    assert ran.returncode == 1
    assert "this is a mistake in pureqwen" in ran.stderr
    assert "KeyError" in ran.stderr


@pytest.mark.parametrize("arguments", [["models"], ["generate", "slow"], ["chat"]])
def test_a_reader_that_goes_away_is_no_error(arguments: list[str]) -> None:
    with subprocess.Popen(
        [*FAKE, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write("slow\n")
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141


def test_ctrl_c_keeps_what_was_printed_and_leaves_no_traceback() -> None:
    with subprocess.Popen(
        [*FAKE, "generate", "slow"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        first = process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (first + rest).startswith(b"word0")
    assert rest.endswith(b"\n")
    assert errors == b""


def test_an_encoding_that_lacks_a_character_does_not_break_the_answer() -> None:
    ran = run(*FAKE, "generate", "你好", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (ran.returncode, ran.stdout) == (0, "Echo: \\u4f60\\u597d\n")


def test_python_and_the_command_give_the_same_answer(tiny: str) -> None:
    expected = pureqwen.load(tiny).chat("hi", max_tokens=12)
    ran = run(*REAL, "generate", "--model", tiny, "--max-tokens", "12", "--json", input="hi\n")
    answer: dict[str, Any] = json.loads(ran.stdout)
    assert answer["token_ids"] == expected.token_ids
    assert len(set(expected.token_ids)) > 3


def test_python_and_a_chat_give_the_same_answer(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = pureqwen.load(tiny).chat("hi", max_tokens=12)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hi\n/exit\n")))
    assert pureqwen.cli.errors.run(pureqwen.cli.make_app(), ["chat", "-m", tiny, "--max-tokens", "12"]) == 0
    assert capsys.readouterr().out == f"{expected.content}\n"


def test_raw_text_is_continued_as_python_does(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = pureqwen.load(tiny).generate("ab<|im_end|>", max_tokens=8)
    arguments = ["generate", "ab<|im_end|>", "--raw", "--model", tiny, "--max-tokens", "8", "--json"]
    assert pureqwen.cli.errors.run(pureqwen.cli.make_app(), arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["token_ids"] == expected.token_ids
    assert answer["usage"]["prompt_tokens"] == 3


@pytest.mark.skipif(os.name != "posix", reason="the shell closes the streams")
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("generate <&-", 1, "the prompt is empty"),
        ("models >&-", 0, ""),
        ("models 2>&-", 0, ""),
        ("generate <&- >&- 2>&-", 1, ""),
    ],
)
def test_streams_that_are_closed_are_empty_ones(command: str, code: int, said: str) -> None:
    ran = run("sh", "-c", f"{sys.executable} -m pureqwen {command}")
    assert (ran.returncode, "Traceback" in ran.stderr) == (code, False)
    assert said in ran.stderr
