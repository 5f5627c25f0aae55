"""Verbs and flags of the command line, frozen: scripts call them. New ones go here; none may be lost."""

import pytest

from pureqwen.cli import make_app

MODEL = "--model -m --dtype --device --revision --context"
SAMPLING = """
    --temperature --top-k --top-p --min-p --repetition-penalty --presence-penalty --frequency-penalty
    --logit-bias --seed --max-tokens --min-tokens --stop --stop-token-ids --ignore-eos --logprobs
    --top-logprobs --thinking-budget --thinking-end
"""
VERBS = {
    "chat": f"--system -s --thinking --no-thinking --tools {MODEL} {SAMPLING}",
    "generate": f"""
        PROMPT --file -f --system -s --thinking --no-thinking --show-thinking --raw --json --tools
        {MODEL} {SAMPLING}
    """,
    "info": "MODEL --dtype --revision --json",
    "models": "--json",
    "download": "MODEL --revision",
    "train": """
        MODEL DATA --out --tokenizer
        --steps --epochs --batch-size --sequence-length --accumulation --learning-rate
        --warmup-steps --decay-from --final-rate --weight-decay --beta1 --beta2 --clip --precision --seed
        --log-every --save-every --keep-checkpoints --skip-long-chats
    """,
}


def test_the_verbs_are_the_frozen_ones() -> None:
    app = make_app()
    assert {verb for verb in app if not verb.startswith("-")} == set(VERBS)
    assert {"--help", "--version"} <= set(app)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_frozen_flags(verb: str) -> None:
    app = make_app()
    arguments = app[verb].assemble_argument_collection(default_parameter=app.default_parameter)
    assert {name for argument in arguments if argument.show for name in argument.names} == set(
        VERBS[verb].split()
    )
