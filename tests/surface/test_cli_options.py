"""Every verb of the command line with its options: scripts depend on them. A new one is added here."""

import pytest

from pureqwen.cli import VERBS, make_app

MODEL = "--model -m --dtype --device --revision --context --compile --speculative"
SAMPLING = """--temperature --top-k --top-p --min-p --repetition-penalty --presence-penalty
    --frequency-penalty --logit-bias --seed --max-tokens --min-tokens --stop --stop-token-ids --ignore-eos
    --logprobs --top-logprobs --thinking-budget --thinking-end"""
TRAINING = """--steps --epochs --batch-size --sequence-length --accumulation --learning-rate --warmup-steps
    --decay-from --final-rate --weight-decay --beta1 --beta2 --clip --balance --precision --compile --seed
    --log-every --save-every --keep-checkpoints --skip-long-chats --optimizer"""

# verb -> (positional, options)
OPTIONS = {
    "chat": ("", f"--system -s --thinking --no-thinking --tools {MODEL} {SAMPLING}"),
    "generate": (
        "PROMPT",
        f"""--file -f --system -s --thinking --no-thinking --show-thinking --raw --json --tools
        --json-schema --regex
        {MODEL} {SAMPLING}""",
    ),
    "serve": (
        "MODEL",
        """--host --port --served-name --thinking --no-thinking --lenient --max-prompt --request-seconds
        --drain --log-json --log-text --api-key --api-key-file --allowed-host --allowed-origin --max-batch
        --step-tokens --cache-tokens --max-queue --prefix-caching --no-prefix-caching --speculative
        --deterministic --dtype --device --revision --context""",
    ),
    "info": ("MODEL", "--dtype --revision --json"),
    "models": ("", "--json"),
    "download": ("MODEL", "--revision"),
    "quantize": ("MODEL OUT", "--scheme --head --revision"),
    "bench": (
        "MODEL",
        "--quick --profile --plot --json --threads --dtype --device --revision --context",
    ),
    "train": ("MODEL DATA", f"--out --tokenizer {TRAINING}"),
}
COMMANDS = """/help /system /thinking /budget /regenerate /undo /reset /tool /tokens /markdown /save /load
    /stats /set /exit"""  # inside a chat


def test_the_verbs_are_the_frozen_ones() -> None:
    app = make_app()
    assert {verb.__name__ for verb in VERBS} == set(OPTIONS)
    assert {name for name in app if not name.startswith("-")} == set(OPTIONS)
    assert {name for name in app if name.startswith("-")} == {"--help", "-h", "--version"}


@pytest.mark.parametrize("verb", OPTIONS)
def test_the_options_of_a_verb_are_the_frozen_ones(verb: str) -> None:
    found = [argument.names for argument in make_app()[verb].assemble_argument_collection() if argument.show]
    names = {name for names in found for name in names}
    positional, options = OPTIONS[verb]
    assert {name for name in names if name.startswith("-")} == set(options.split())
    assert {name for name in names if not name.startswith("-")} == set(positional.split())


def test_the_commands_of_a_chat_are_the_frozen_ones() -> None:
    from pureqwen.cli.commands import NAMES

    assert COMMANDS.split() == NAMES
