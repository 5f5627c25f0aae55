"""What every task hands over: a problem with its wordings, its written steps and its answer, all computed.

    task.draw(rng) -> Problem          endless; the same rng state gives the same problem
    Problem.chat(...) -> Chat          {"messages": [...], "tools": [...]}, the last message is the answer

Two things are held out, so that the evaluation asks what no training chat has: problems, by a hash of their
`key` (a problem without a key is never held out: there are too few of its kind), and of each kind the last
wording.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recipes.pocket.wording import with_adverb

Message = dict[str, Any]
Chat = dict[str, Any]
BUDGET_SENTENCE = (  # Qwen3's, which the package writes when a thinking budget is used up
    "Considering the limited time by the user, "
    "I have to give the solution based on the thinking directly now."
)


@dataclass(frozen=True)
class Problem:
    """One question with its answer.

    wordings    how it may be asked, with {fields}; the last one is held out from training
    steps       the working that stands between <think> and </think>
    answer      what is said; short: what is said where only the result is wanted; value: the result in JSON
    key         decides with `rate` (1 in ...) whether the problem is held out; "": never
    before      the turns before the question; after: a call and the tool's result between question and answer
    tools       schemas; calls: the tool calls that are the answer
    """

    wordings: tuple[str, ...]
    steps: str
    answer: str
    fields: Mapping[str, object] = field(default_factory=dict)
    short: str = ""
    value: object = None
    key: str = ""
    rate: int = 40
    before: tuple[Message, ...] = ()
    after: tuple[Message, ...] = ()
    tools: tuple[Message, ...] = ()
    calls: tuple[Message, ...] = ()

    @property
    def held_out(self) -> bool:
        return bool(self.key) and held_out(self.key, self.rate)

    def question(self, rng: random.Random, *, held_out: bool = False) -> str:
        """In one of the wordings that are trained, or in the held-out one."""
        wording = self.wordings[-1] if held_out else rng.choice(self.wordings[:-1])
        return with_adverb(wording, rng).format(**self.fields)

    def chat(self, question: str, *, thoughts: str | None) -> Chat:
        """The chat with this question; without thoughts the answer is direct."""
        reply: Message = {"role": "assistant", "content": self.answer}
        if self.calls:
            reply["tool_calls"] = [{"type": "function", "function": call} for call in self.calls]
        if thoughts:
            reply["reasoning_content"] = thoughts
        messages = [*self.before, {"role": "user", "content": question}, *self.after, reply]
        return {"messages": messages, "tools": list(self.tools)} if self.tools else {"messages": messages}


@dataclass(frozen=True)
class Task:
    """A skill: its name in the tables, its share of the training chats (any unit), where problems come from.

    direct is the share of its chats that are answered without thinking. unseen draws problems for the
    held-out wording where that is not the question's.
    """

    name: str
    weight: float
    draw: Callable[[random.Random], Problem]
    direct: float = 0.3
    unseen: Callable[[random.Random], Problem] | None = None


def held_out(key: str, rate: int = 40) -> bool:
    """True for 1 in `rate` keys, the same ones on every machine."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") % rate == 0


def draw_split(task: Task, rng: random.Random, *, held_out: bool) -> Problem:
    """A problem of the training split, or of the held-out one (any, where the task holds none out)."""
    while True:
        problem = task.draw(rng)
        if not problem.key or problem.held_out == held_out:
            return problem


def cut(steps: str, rng: random.Random) -> str:
    """Thinking that a budget ended anywhere, with the sentence that ends it."""
    return f"{steps[: rng.randrange(len(steps) + 1)].rstrip()}\n\n{BUDGET_SENTENCE}"
