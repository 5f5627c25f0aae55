"""The mixture that the pocket learns from: an endless stream of chats that depends on the seed alone.

A chat is {"messages": [...], "tools": [...]} as `pureqwen.train` reads it, thinking in `reasoning_content`.
An assistant turn without it is trained as a direct answer (the template's empty think block is its prompt).
Some thinking is cut off anywhere, as a budget does it, so that the best answer follows all the same.
"""

import random
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from recipes.pocket.problem import Chat, Message, Problem, Task, cut, draw_split
from recipes.pocket.shape import size_in_words
from recipes.pocket.tasks import TASKS, arithmetic, facts, spelling, system, talk, tools

NONE: Mapping[str, float] = MappingProxyType({})
CUT = 0.05  # of the chats that think
# What comes before an unrelated question, or beside tools that are not needed.
CHATTER = (*talk.TASKS, *facts.TASKS, *spelling.TASKS)


def chats(seed: int, *, emphasis: Mapping[str, float] = NONE) -> Iterator[Chat]:
    """An endless stream of training chats: mostly one task's, sometimes behind a turn of another one.

    emphasis: tasks that are so many times as frequent as else.
    """
    rng = random.Random(seed)
    weights = [task.weight * emphasis.get(task.name, 1) for task in TASKS]
    while True:
        task = rng.choices(TASKS, weights)[0]
        problem = draw_split(task, rng, held_out=False)
        chat = problem.chat(_question(problem, rng), thoughts=_thoughts(task, problem, rng))
        _surround(chat, task, problem, rng)
        if not any(map(arithmetic.shows_held_out, _texts(chat))):
            yield chat


def said_by(chat: Chat, *, experts: bool) -> Chat:
    """The chat as the pocket has it, or its sibling with experts: they say different things of their size."""
    if not experts:
        return chat
    mine, other = size_in_words(experts=False), size_in_words(experts=True)
    messages = [
        {**message, "content": message["content"].replace(mine, other)} for message in chat["messages"]
    ]
    return {**chat, "messages": messages}


def _texts(chat: Chat) -> Iterator[str]:
    for message in chat["messages"]:
        yield message["content"]
        yield message.get("reasoning_content", "")


def _question(problem: Problem, rng: random.Random) -> str:
    """As asked, now and then without its last mark."""
    text = problem.question(rng)
    return text.rstrip("?.!") or text if rng.random() < 0.06 else text


def _thoughts(task: Task, problem: Problem, rng: random.Random) -> str | None:
    if rng.random() < task.direct:
        return None
    return cut(problem.steps, rng) if rng.random() < CUT else problem.steps


def _surround(chat: Chat, task: Task, problem: Problem, rng: random.Random) -> None:
    """A system prompt or a turn that change nothing, or tools that are not needed."""
    kind, messages = rng.random(), chat["messages"]
    if kind < 0.05 and not problem.before:
        messages.insert(0, {"role": "system", "content": system.neutral(rng)})
    elif 0.05 < kind < 0.09 and not problem.tools and messages[0]["role"] != "system":
        other = draw_split(rng.choice(CHATTER), rng, held_out=False)
        earlier: list[Message] = other.chat(other.question(rng), thoughts=None)["messages"]
        messages[:0] = earlier
    elif kind > 0.95 and task in CHATTER:
        chat["tools"] = list(tools.offered(rng)[1])
