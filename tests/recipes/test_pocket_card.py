"""The model card, the README's table and the picture, all from the evaluation's figures; what is right."""

import json
from pathlib import Path
from typing import Any

import pytest

import pureqwen
from recipes.pocket import card, plot
from recipes.pocket.evaluate import answers, asked, is_right, mistakes, share
from recipes.pocket.tasks import TASKS


@pytest.fixture
def result() -> dict[str, Any]:
    rows = [
        {
            "task": name,
            "questions": 50,
            "thinking, seen wording": 99.5,
            "direct, seen wording": 12.0,
            "thinking, held out wording": 98.0,
            "direct, held out wording": 4.0 * number,
        }
        for number, name in enumerate(("addition", "spelling"))
    ]
    budgets = [
        {"budget": 0, "accuracy": 20.0},
        {"budget": 64, "accuracy": 75.5},
        {"budget": None, "accuracy": 99.0},
    ]
    return {
        "command": "evaluate",
        "device": "here",
        "parameters": 2_000_000,
        "rows": rows,
        "budgets": budgets,
    }


def test_the_table_has_every_task_and_never_rounds_up_to_a_hundred(result: dict[str, Any]) -> None:
    table = card.table(result).splitlines()
    assert table[2] == "| addition | 99.5 | 98 | 12 | 0 |" and table[3].startswith("| spelling | 99.5 | 98 |")
    assert table[4] == "| **all tasks** | **99.5** | **98.0** | **12.0** | **2.0** |"


def test_the_card_says_what_was_measured(result: dict[str, Any]) -> None:
    text = card.model_card(result)
    assert card.table(result) in text and "2,000,000 parameters" in text and "50 questions" in text
    assert "0 tokens 20 %, 64 tokens 75.5 %, no limit 99 %" in text
    assert "{" not in text


def test_the_card_of_the_mixture_says_what_it_is(result: dict[str, Any]) -> None:
    text = card.model_card(result, experts=True)
    assert text.count("`make pocket-moe`") == 1 and "`make pocket`" in card.model_card(result)
    assert "Qwen3 (mixture of experts)" in text and "8 experts of SwiGLU 256, 2 of them for a token" in text


def test_the_readme_shows_the_table_and_the_picture(result: dict[str, Any]) -> None:
    block = card.readme_table(result, "docs/pocket/accuracy.png", sibling=result)
    assert card.table(result) in block and "](docs/pocket/accuracy.png)" in block
    assert block.endswith("over all tasks 99.5 and 98.0 percent with thinking, 12.0 and 2.0 without.")


def test_a_picture_is_fresh_until_a_figure_changes(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "accuracy.png"
    assert not plot.is_fresh(result, path)
    plot.plot(result, path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 200_000
    assert plot.is_fresh(result, path) and plot.is_fresh({**result, "seconds": 3.0}, path)
    result["budgets"][0]["accuracy"] = 21.0
    assert not plot.is_fresh(result, path)


@pytest.mark.parametrize("name", card.FOLDERS)
def test_the_shipped_card_is_that_of_the_shipped_figures(name: str) -> None:
    result = json.loads((card.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    found = (card.FOLDERS[name] / "README.md").read_text(encoding="utf-8")
    assert found == card.model_card(result, experts=name == "pocket-moe")
    assert [row["task"] for row in result["rows"]] == [task.name for task in TASKS]
    assert result["budgets"][-1]["budget"] is None


def answer(content: str, *calls: tuple[str, Any]) -> Any:
    """What a model gives back, as far as it is judged."""
    found = [pureqwen.ToolCall(name=name, arguments=arguments) for name, arguments in calls]

    class Answer:
        tool_calls = found

    Answer.content, Answer.text = content, content  # type: ignore[attr-defined]
    return Answer()


def expected(content: str, *calls: tuple[str, Any]) -> dict[str, Any]:
    made = [{"type": "function", "function": {"name": name, "arguments": a}} for name, a in calls]
    return {"role": "assistant", "content": content} | ({"tool_calls": made} if made else {})


def test_an_answer_is_right_when_it_is_exactly_the_expected_one() -> None:
    call, other = ("clock", {"city": "Rome"}), ("clock", {"city": "Oslo"})
    assert is_right(answer(" 3 + 4 = 7.\n"), expected("3 + 4 = 7."))
    assert not is_right(answer("7"), expected("3 + 4 = 7."))
    assert is_right(answer("", call), expected("", call))
    for wrong in (answer("", other), answer(""), answer("", call, call), answer("It is late.", call)):
        assert not is_right(wrong, expected("", call))
    assert not is_right(answer("7", call), expected("7"))


def test_shares_and_mistakes_count_the_wrong_ones() -> None:
    chats = [{"messages": [{"role": "user", "content": f"{n}?"}, expected(str(n))]} for n in range(4)]
    found = [(chat, answer("2")) for chat in chats]
    assert share(found) == 25.0
    assert len(mistakes(found, 9)) == 3 and len(mistakes(found, 2)) == 2
    assert "'0?'" in mistakes(found, 1)[0]


def test_every_chat_of_the_evaluation_gets_its_own_answer_within_the_limit() -> None:
    """Sorted by length and in batches, with tools for those that have some."""
    qwen = pureqwen.load(dtype="float32")
    chats = [chat for task in TASKS for chat in asked(task, 1)]
    found = answers(qwen, chats, thinking=False, batch=8, max_tokens=3)
    assert [id(chat) for chat, _ in found] == [id(chat) for chat in chats]
    assert all(len(result.token_ids) <= 3 for _, result in found)
    alone, result = found[-1]
    assert result.token_ids == answers(qwen, [alone], thinking=False, max_tokens=3)[0][1].token_ids
