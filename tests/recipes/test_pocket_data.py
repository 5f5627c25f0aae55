"""What the pocket is trained on: how often what occurs, and that nothing of the evaluation is in it."""

import itertools
import json
import random
import re
import string
from collections import Counter
from functools import cache
from typing import Any

import pytest

from recipes.pocket import data, words
from recipes.pocket.data import chats, said_by
from recipes.pocket.evaluate import asked
from recipes.pocket.problem import BUDGET_SENTENCE, Problem, Task, held_out
from recipes.pocket.shape import size_in_words
from recipes.pocket.tasks import TASKS, arithmetic, unknown
from recipes.pocket.wording import with_adverb

COUNT = 3000
Chat = dict[str, Any]
BY_NAME = {task.name: task for task in TASKS}
WORDED = [
    task for task in TASKS if task.name != "saying that it does not know"
]  # a sentence each, not wordings


@cache
def stream() -> list[Chat]:
    """The first chats of a training."""
    return list(itertools.islice(chats(3), COUNT))


def said(role: str) -> list[str]:
    """What one role says in them."""
    return [m["content"] for chat in stream() for m in chat["messages"] if m["role"] == role]


@cache
def kinds(name: str) -> list[Problem]:
    """One problem for each set of wordings that a task has."""
    rng, found = random.Random(name), dict[tuple[str, ...], Problem]()
    for _ in range(300):
        problem = BY_NAME[name].draw(rng)
        found.setdefault(problem.wordings, problem)
    return list(found.values())


class Wording:
    """Tells whether a question is in one wording, whatever stands in its fields and at its end."""

    def __init__(self, text: str) -> None:
        pieces = re.split(r"\{\w+\}|<\w+>", text.replace("{{", "{").replace("}}", "}").rstrip("?.!"))
        self._longest = max(pieces, key=len)
        self._whole = re.compile(".+".join(map(re.escape, pieces)) + "[?.!]?")

    def fits(self, question: str) -> bool:
        return self._longest in question and self._whole.fullmatch(question) is not None


@pytest.mark.parametrize("task", WORDED, ids=lambda task: task.name)
def test_a_task_has_eight_wordings_and_holds_one_of_them_out(task: Task) -> None:
    for problem in kinds(task.name):
        assert len(set(problem.wordings)) >= 8, problem.wordings
        assert problem.wordings[-1] not in problem.wordings[:-1]
        question = problem.question(random.Random(0), held_out=True)
        assert question == with_adverb(problem.wordings[-1], random.Random(0)).format(**problem.fields)
        assert Wording(problem.wordings[-1]).fits(question)


def test_no_question_of_the_training_is_in_a_held_out_wording() -> None:
    texts = {problem.wordings[-1] for task in WORDED for problem in kinds(task.name)}
    wordings = [Wording(text) for text in texts]
    assert len(wordings) > 25 and len(said("user")) > COUNT
    assert [q for q in said("user") if any(wording.fits(q) for wording in wordings)] == []


def test_held_out_system_prompts_and_foreign_questions_are_not_in_the_training() -> None:
    task = BY_NAME["obeying the system prompt"]
    unseen = {chat["messages"][0]["content"] for chat in asked(task, 30, held_out_wording=True)}
    assert len(unseen) == 5 and not unseen & set(said("system"))  # four languages, and brevity
    known = {question.lower().rstrip("?.") for question in said("user")}
    assert not known & {question.lower().rstrip("?.") for question in unknown.UNSEEN}


def test_a_held_out_question_that_the_grammar_makes_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Why is the sky blue?" is a sentence of the grammar of foreign questions."""
    sentences = itertools.chain(["Why is the sky blue?"], itertools.repeat("Is wine old?"))
    monkeypatch.setattr(unknown, "_from_grammar", lambda rng: next(sentences))
    monkeypatch.setattr(unknown, "unknown_question", lambda rng: next(sentences))
    assert unknown._foreign(random.Random(1)).wordings[0].lower().startswith("is wine old")


def test_no_training_chat_shows_a_held_out_problem() -> None:
    """Nor may another task's working or a turn before the question show it."""
    found = 0
    for chat in stream():
        for message in chat["messages"]:
            for text in (message["content"], message.get("reasoning_content", "")):
                for a, op, b in re.findall(r"(\d+) ([-+*/]) (\d+)", text):
                    found += 1
                    key = arithmetic.key(int(a), op, int(b))
                    assert not (key and held_out(key)), (text, chat["messages"][-1])
    assert found > COUNT / 2


def test_both_orders_of_a_sum_or_product_are_held_out_together() -> None:
    rng = random.Random(4)
    for op in "+*":
        pairs = [(rng.randrange(100, 999), rng.randrange(10, 99)) for _ in range(2000)]
        one = [arithmetic.problem(a, op, b).held_out for a, b in pairs]
        assert one == [arithmetic.problem(b, op, a).held_out for a, b in pairs] and 25 < sum(one) < 80
    assert arithmetic.problem(7, "+", 12).key == "" and arithmetic.problem(12, "+", 34).key != ""


def test_no_training_chat_asks_for_a_held_out_word() -> None:
    found = []
    for message in itertools.chain.from_iterable(chat["messages"] for chat in stream()):
        thoughts = message.get("reasoning_content", "")
        for line in re.split(r"\n|; ", "" if BUDGET_SENTENCE in thoughts else thoughts):
            letters = re.findall(r"([a-z])(\d+)(?:=\d+)?", line)
            if len(letters) > 2 and [int(n) for _, n in letters] == list(range(1, len(letters) + 1)):
                found.append("".join(letter for letter, _ in letters))
        if re.fullmatch(r"[a-z](-[a-z])+", message["content"]):
            found.append(message["content"].replace("-", ""))
    assert len(found) > COUNT / 8
    assert [word for word in found if is_held_out(word)] == []


def is_held_out(word: str) -> bool:
    return bool(words.key(word)) and held_out(words.key(word), 10)


def test_a_tenth_of_three_thousand_words_is_held_out_and_random_letters_occur() -> None:
    assert len(words.WORDS) == len(set(words.WORDS)) >= 3000
    share = sum(map(is_held_out, words.WORDS)) / len(words.WORDS)
    assert 0.085 < share < 0.115
    assert all(set(word) <= set(string.ascii_lowercase) and 3 <= len(word) <= 12 for word in words.WORDS)
    rng, known = random.Random(0), set(words.WORDS)
    assert 0.15 < sum(words.word(rng) not in known for _ in range(2000)) / 2000 < 0.35


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_evaluation_asks_the_same_questions_each_time(task: Task) -> None:
    for held_out_wording in (False, True):
        found = asked(task, 10, held_out_wording=held_out_wording)
        assert len(found) == 10 and found == asked(task, 10, held_out_wording=held_out_wording)
        assert {chat["messages"][-1]["role"] for chat in found} == {"assistant"}
        assert {chat["messages"][-2]["role"] for chat in found} <= {"user", "tool"}


@pytest.mark.parametrize("name", ["addition", "subtraction", "multiplication"])
def test_the_evaluation_asks_held_out_problems_and_hardly_small_ones(name: str) -> None:
    """Small ones are all in the training, and were nine of ten when each of them was taken."""
    equations = [chat["messages"][-1]["content"].split() for chat in asked(BY_NAME[name], 60)]
    keys = [arithmetic.key(int(a), op, int(b)) for a, op, b, *_ in equations]
    assert sum(not key for key in keys) < 25
    assert all(held_out(key) for key in keys if key)
    assert max(len(a) for a, *_ in equations) == (3 if name == "multiplication" else 5)


def test_the_evaluation_asks_for_held_out_words() -> None:
    """But for those that are never held out, at the share that they have."""
    for name, step in (("spelling", 1), ("reversing words", -1)):
        said = [chat["messages"][-1]["content"].replace("-", "")[::step] for chat in asked(BY_NAME[name], 40)]
        known = [word for word in said if word in words.COMMON]
        assert len(known) < 14 and all(is_held_out(word) for word in said if word not in known)


def test_the_stream_depends_on_the_seed_alone() -> None:
    assert stream()[:100] == list(itertools.islice(chats(3), 100))
    assert stream()[:20] != list(itertools.islice(chats(4), 20))
    assert json.loads(json.dumps(stream()[:500])) == stream()[:500]


def test_chats_think_answer_directly_and_are_cut_off() -> None:
    thoughts = [chat["messages"][-1].get("reasoning_content") for chat in stream()]
    assert 0.1 < sum(not thought for thought in thoughts) / COUNT < 0.4
    cut = [thought for thought in thoughts if thought and BUDGET_SENTENCE in thought]
    assert 0.025 < len(cut) / COUNT < 0.09
    assert all(thought.endswith(f"\n\n{BUDGET_SENTENCE}") for thought in cut)
    assert len({len(thought) for thought in cut}) > 30  # anywhere
    assert all(0.05 <= task.direct <= 0.5 for task in TASKS)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_each_task_is_asked_with_thinking_and_without(task: Task) -> None:
    rng, kinds = random.Random(task.name), Counter[str]()
    assert task.weight > 1
    for _ in range(400):
        thoughts = data._thoughts(task, task.draw(rng), rng)
        kinds["none" if thoughts is None else "cut" if BUDGET_SENTENCE in thoughts else "whole"] += 1
    assert abs(kinds["none"] / 400 - task.direct) < 0.09
    assert kinds["cut"] > 5 and kinds["whole"] > 100


def test_chats_have_system_prompts_turns_and_tools_that_are_not_needed() -> None:
    roles = Counter(tuple(message["role"] for message in chat["messages"]) for chat in stream())
    assert roles["user", "assistant"] > 0.6 * COUNT
    assert roles["system", "user", "assistant"] > 0.05 * COUNT
    assert roles["user", "assistant", "user", "assistant"] > 0.02 * COUNT
    assert roles["user", "assistant", "tool", "assistant"] > 0.01 * COUNT
    called = [chat for chat in stream() if any("tool_calls" in m for m in chat["messages"])]
    assert all("tools" in chat for chat in called)
    assert sum("tools" in chat for chat in stream()) - len(called) > 0.005 * COUNT


def test_the_mixture_says_its_own_size() -> None:
    """And whatever else it says is what the pocket says."""
    dense, mixture = (size_in_words(experts=experts) for experts in (False, True))
    changed = [chat for chat in stream() if said_by(chat, experts=True) != chat]
    assert changed and all(dense in str(chat) for chat in changed)
    for chat in changed:
        told = said_by(chat, experts=True)
        assert (
            dense not in str(told) and mixture in str(told) and str(told).replace(mixture, dense) == str(chat)
        )
        assert said_by(chat, experts=False) is chat
