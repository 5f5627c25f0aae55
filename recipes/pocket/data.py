# ruff: noqa: E501  (tables)
"""The mixture that the pocket learns from: an endless stream of chats that depends on the seed alone.

A chat is {"messages": [...]} as `pureqwen.train` reads it. Thinking is in `reasoning_content`, and an
assistant turn without it is trained as a direct answer (the template's empty think block is its prompt).
"""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

from recipes.pocket import arithmetic, facts, talk

Message = dict[str, Any]
Chat = dict[str, list[Message]]

SHAPE = {"parameters": "2.6 million", "layers": "4", "vocabulary": "768"}
BUDGET_SENTENCE = "Considering the limited time by the user, I have to give the solution based on the thinking directly now."
SYSTEMS = (
    "You are a helpful assistant.", "You are pocket.", "Be brief.", "You are a calculator.", "Answer politely.",
    "You are a helpful and precise teacher of mathematics.", "You are an assistant that explains language models.",
    "Today is Monday.", "You are a friendly bot.", "Always answer in English.",
)  # fmt: skip
TASKS = (
    ("arithmetic", 58), ("direct", 13), ("facts", 15), ("talk", 6), ("unknown", 5), ("too_large", 1.5),
    ("cut", 1.5),
)  # fmt: skip


def turn(question: str, answer: str, thoughts: str | None) -> list[Message]:
    """One user message and the assistant's reply to it."""
    reply: Message = {"role": "assistant", "content": answer}
    if thoughts:
        reply["reasoning_content"] = thoughts
    return [{"role": "user", "content": question}, reply]


def _arithmetic(rng: random.Random) -> list[Message]:
    problem = arithmetic.draw_split(rng, held_out=False)
    return turn(arithmetic.question(problem, rng), problem.answer, arithmetic.steps(problem))


def _direct(rng: random.Random) -> list[Message]:
    problem = arithmetic.draw_split(rng, held_out=False)
    return turn(arithmetic.question(problem, rng), problem.answer, None)


def _cut(rng: random.Random) -> list[Message]:
    """Thinking that a budget ended: the sentence that ends it, and then the best answer."""
    problem = arithmetic.draw_split(rng, held_out=False)
    working = arithmetic.steps(problem)
    part = working[: rng.randrange(len(working))].rstrip("\n")
    return turn(arithmetic.question(problem, rng), problem.answer, f"{part}\n\n{BUDGET_SENTENCE}")


def _vary(text: str, rng: random.Random) -> str:
    """The same question as typed in haste: lower case, or without its last mark."""
    kind = rng.random()
    if kind < 0.2:
        text = text.lower()
    if kind < 0.1 or kind > 0.9:
        text = text.rstrip("?.!") or text
    return text


def _facts(rng: random.Random) -> list[Message]:
    thoughts: str | None
    if rng.random() < 0.25:
        questions, answer = rng.choice(facts.QUESTIONS)
        question, thoughts = rng.choice(questions), "A question about Qwen3 and pureqwen."
    else:
        fact = rng.choice(facts.FACTS)
        why = bool(fact.why) and rng.random() < 0.4
        question = rng.choice(facts.WHY if why else facts.WHAT).format(x=rng.choice(fact.names))
        answer = fact.why if why else fact.what
        thoughts = f"{'Why' if why else 'What'}: {fact.names[0]}."
    return turn(_vary(question, rng), answer, thoughts if rng.random() < 0.6 else None)


def _talk(rng: random.Random) -> list[Message]:
    questions, answer = rng.choice(talk.TALK)
    thoughts = "Small talk." if rng.random() < 0.6 else None
    return turn(_vary(rng.choice(questions), rng), answer.format(**SHAPE), thoughts)


def _unknown(rng: random.Random) -> list[Message]:
    if rng.random() < 0.1:
        a, b = rng.randint(1, 10_000), rng.randint(1, 100)
        text = rng.choice(
            ("What is {a} / {b}?", "{a} / {b}", "Divide {a} by {b}.", "what is {a} divided by {b}")
        )
        return turn(text.format(a=a, b=b), talk.DIVISION, "Division." if rng.random() < 0.6 else None)
    thoughts = "I was not taught this." if rng.random() < 0.6 else None
    return turn(talk.unknown_question(rng), talk.UNKNOWN, thoughts)


def _too_large(rng: random.Random) -> list[Message]:
    return turn(
        talk.too_large_question(rng), talk.TOO_LARGE, "Too many digits." if rng.random() < 0.6 else None
    )


MAKERS: dict[str, Callable[[random.Random], list[Message]]] = {
    "arithmetic": _arithmetic, "direct": _direct, "facts": _facts, "talk": _talk, "unknown": _unknown,
    "too_large": _too_large, "cut": _cut,
}  # fmt: skip


def chats(seed: int) -> Iterator[Chat]:
    """An endless stream of training chats: mostly one turn, sometimes two or three, sometimes with a system
    prompt.
    """
    rng = random.Random(seed)
    names, weights = zip(*TASKS, strict=True)
    while True:
        turns = rng.choices((1, 2, 3), (93, 5, 2))[0]
        messages: list[Message] = []
        if rng.random() < 0.06:
            messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
        for task in rng.choices(names, weights, k=turns):
            messages += MAKERS[task](rng)
        yield {"messages": messages}


def held_out_arithmetic(seed: int, count: int, op: str, *, phrasing: str = "seen") -> list[tuple[str, str]]:
    """count (question, expected answer) pairs of one operator, from numbers that no training chat has."""
    rng = random.Random(f"held out {seed} {op} {phrasing}")
    pairs = []
    for problem in itertools.islice(
        iter(lambda: arithmetic.draw_split(rng, held_out=True, op=op), None), count
    ):
        text = arithmetic.HELD_OUT_PHRASING[op].format(a=problem.a, b=problem.b)
        pairs.append((text if phrasing == "held out" else arithmetic.question(problem, rng), problem.answer))
    return pairs


def facts_questions(*, phrasing: str) -> list[tuple[str, str]]:
    """Every fact by each of its names: in its first phrasing, or in the one that training does not have."""
    form = facts.HELD_OUT_WHAT if phrasing == "held out" else facts.WHAT[0]
    return [(form.format(x=name), fact.what) for fact in facts.FACTS for name in fact.names]


def talk_questions() -> list[tuple[str, str]]:
    """The first question of each kind of small talk."""
    return [(questions[0], answer.format(**SHAPE)) for questions, answer in talk.TALK]


def unknown_questions() -> list[tuple[str, str]]:
    """Questions outside of what it was taught, worded as in no training chat."""
    return [(question, talk.UNKNOWN) for question in talk.UNSEEN]
