# ruff: noqa: E501  (tables)
"""The second, short stage: the same tasks in many more wordings, and more of what the first stage gets wrong.

After one pass over data.py's chats the arithmetic is right, but a question in a new wording may be taken for another
task, and one about something else for a question about Qwen3. So here wordings are composed of parts, questions that the
pocket can't answer come from a small grammar, and pairs of numbers whose comparison is hard are frequent.
"""

import random
from collections.abc import Callable, Iterator

from recipes.pocket import arithmetic, facts, talk
from recipes.pocket.arithmetic import Problem, number
from recipes.pocket.data import MAKERS, SYSTEMS, Chat, Message, turn

TASKS = (
    ("worded", 34), ("compared", 14), ("asked", 14), ("foreign", 17),
    ("arithmetic", 8), ("direct", 4), ("facts", 3), ("talk", 3), ("too_large", 2), ("cut", 1),
)  # fmt: skip

BEFORE = (
    "", "", "", "", "Please ", "please ", "Can you ", "Could you ", "Would you ", "I want you to ", "I'd like you to ", "Hey, ",
    "Hi! ", "Now ", "Quickly ", "OK, ", "Okay, now ", "Will you ", "Can you please ", "Could you please ", "Let's ", "Help me ",
    "Next, ", "And now ", "You should ", "Pocket, ",
)  # fmt: skip
AFTER = (
    "",
    "",
    "",
    "",
    ".",
    "?",
    " please",
    " please.",
    " now",
    " for me.",
    ", thanks",
    "!",
    " step by step.",
    " now.",
)
COMMANDS = (
    "compute {x}", "calculate {x}", "solve {x}", "work out {x}", "tell me {x}", "find {x}", "evaluate {x}", "do {x}",
    "tell me what {x} is", "give me the result of {x}", "figure out {x}", "give me {x}", "say what {x} makes",
)  # fmt: skip
ASKING = (
    "What is {x}?", "what is {x}", "How much is {x}?", "What do you get for {x}?", "What's the result of {x}?", "{x}",
    "{x} = ?", "Do you know {x}?", "What's {x}?", "And {x}?", "what about {x}?", "The answer to {x}?", "How much does {x} make?",
    "I need to know {x}", "My question: {x}", "{x} equals what?", "Result of {x}?",
)  # fmt: skip
WRITTEN = {
    "+": ("{a} + {b}", "{a} + {b}", "{a}+{b}", "{a} plus {b}", "the sum of {a} and {b}"),
    "-": ("{a} - {b}", "{a} - {b}", "{a}-{b}", "{a} minus {b}", "the difference of {a} and {b}"),
    "*": ("{a} * {b}", "{a} * {b}", "{a}*{b}", "{a} times {b}", "{a} x {b}", "the product of {a} and {b}"),
}

WH = (
    "Why",
    "How",
    "When",
    "Where",
    "Since when",
    "How often",
    "In which country",
    "Why exactly",
    "Under what conditions",
)
AUX = ("do", "does", "did", "can", "could", "should", "will", "would")
VERBS = (
    "sleep", "work", "grow", "fly", "die", "sing", "run", "begin", "move", "eat", "speak", "shine", "burn", "melt", "open",
    "swim", "fall", "change", "matter", "exist", "dance", "win", "break", "travel", "smell", "taste", "happen", "end",
)  # fmt: skip
ADJECTIVES = (
    "blue", "red", "old", "large", "small", "famous", "sweet", "dangerous", "cold", "hot", "green", "rich", "poor", "deep",
    "heavy", "round", "dark", "loud", "far away", "healthy", "legal", "expensive", "tall", "wet", "funny", "alive", "empty",
)  # fmt: skip
NOUNS = (
    "cats", "the rain", "the sky", "people", "children", "my friend", "the king", "a train", "birds", "the city", "rivers",
    "stars", "a doctor", "my teacher", "apples", "the government", "snow", "ice", "fish", "a mountain", "the desert", "wine",
    "the queen", "sharks", "a bridge", "spiders", "the wind", "gold", "salt", "a lawyer", "your brother", "bees", "planets",
    "the library", "a tiger", "bread", "tea", "the earth", "a clock", "my boss", "a castle", "sugar", "horses", "the team",
)  # fmt: skip
DEEDS = (
    "Write", "Draw", "Find", "Translate", "Recommend", "Invent", "Describe", "Show me", "Suggest", "Buy", "Book", "Open",
    "Read", "Fix", "Send", "Plan", "Sing", "Summarize", "Name", "List", "Create", "Cook", "Play", "Explain", "Imagine",
)  # fmt: skip
THINGS = (
    "a haiku", "a poem", "a song", "three books", "a good film", "a recipe", "a hotel", "a game", "the news", "my email",
    "a letter", "five animals", "two countries", "a joke about dogs", "a trip", "a table", "this sentence", "a list of cities",
    "some ideas", "a plan", "a picture", "the window", "a present", "a name", "a web page", "a program", "my code", "a speech",
)  # fmt: skip


def _wrap(command: str, rng: random.Random) -> str:
    """A request with something polite before or after it, as people write."""
    before = rng.choice(BEFORE)
    text = before + command + rng.choice(AFTER)
    text = text[0].upper() + text[1:] if rng.random() < 0.7 else text
    return text.lower() if rng.random() < 0.1 else text


def _ask(x: str, rng: random.Random, commands: tuple[str, ...], asking: tuple[str, ...]) -> str:
    text = rng.choice(asking) if rng.random() < 0.45 else _wrap(rng.choice(commands), rng)
    return text.format(x=x)


def _question(problem: Problem, rng: random.Random) -> str:
    """A problem in words that are put together anew; never the wording that the evaluation holds out."""
    held_out = arithmetic.HELD_OUT_PHRASING[problem.op].format(a=problem.a, b=problem.b)
    while True:
        x = rng.choice(WRITTEN[problem.op]).format(a=problem.a, b=problem.b)
        if (text := _ask(x, rng, COMMANDS, ASKING)) != held_out:
            return text


def _worded(rng: random.Random) -> list[Message]:
    problem = arithmetic.draw_split(rng, held_out=False)
    return turn(_question(problem, rng), problem.answer, arithmetic.steps(problem))


def _compared(rng: random.Random) -> list[Message]:
    """Subtraction with a result near zero or below: which number is larger must be read digit by digit."""
    while True:
        length = rng.randint(1, 5)
        a = number(rng, length)
        same = rng.randint(0, length - 1)  # leading digits that agree
        tail = length - same
        b = number(rng, length) if same == 0 else int(str(a)[:same] + f"{rng.randrange(10**tail):0{tail}}")
        if rng.random() < 0.15:
            b = a
        problem = Problem(a, "-", b)
        if not problem.held_out:
            return turn(_question(problem, rng), problem.answer, arithmetic.steps(problem))


FACT_COMMANDS = (
    "explain {x}", "tell me about {x}", "describe {x}", "say what {x} is", "explain to me what {x} is", "define {x}",
    "tell me how {x} works", "teach me {x}", "give me a short explanation of {x}", "explain {x} in one sentence",
)  # fmt: skip
FACT_ASKING = (
    "What is {x}?", "what is {x}", "{x}?", "How does {x} work?", "What is {x}, exactly?", "And what is {x}?", "So what is {x}?",
    "I want to understand {x}", "What do you mean by {x}?", "{x}: what is it?", "Do you know what {x} is?", "What exactly is {x}?",
    "I don't understand {x}", "What's {x}?", "What is {x} in Qwen3?", "Tell me: what is {x}?", "what does {x} do",
)  # fmt: skip


def _asked(rng: random.Random) -> list[Message]:
    """A fact, in words that are put together anew."""
    fact = rng.choice(facts.FACTS)
    x = rng.choice(fact.names)
    while (text := _ask(x, rng, FACT_COMMANDS, FACT_ASKING)) == facts.HELD_OUT_WHAT.format(x=x):
        pass
    return turn(text, fact.what, f"What: {fact.names[0]}." if rng.random() < 0.6 else None)


def _foreign(rng: random.Random) -> list[Message]:
    """A question from outside, made by a small grammar, with made-up words here and there."""
    noun, other = (rng.choice(NOUNS) if rng.random() < 0.7 else talk.invented(rng) for _ in range(2))
    aux, wh, verb, adjective = rng.choice(AUX), rng.choice(WH), rng.choice(VERBS), rng.choice(ADJECTIVES)
    forms = (
        f"{wh} {aux} {noun} {verb}?", f"{wh} is {noun} {adjective}?", f"{wh} are {noun} {adjective}?",
        f"{aux} {noun} {verb}?", f"Is {noun} {adjective}?", f"How {adjective} is {noun}?", f"Who {verb}s {noun}?",
        f"Which {other} {verb}s?", f"What {verb}s like {noun}?", f"{rng.choice(DEEDS)} {rng.choice(THINGS)}.",
        f"{rng.choice(DEEDS)} {rng.choice(THINGS)} about {noun}.", f"{rng.choice(DEEDS)} {noun}.",
        f"Who is the {adjective} {other}?", f"What is the most {adjective} {other} in {noun}?",
        f"How many {other} does {noun} have?", f"Is {noun} more {adjective} than {other}?",
        f"I think {noun} {verb}s.", f"My {other} is {adjective}.", f"What {other} is it in {noun}?",
        f"Which is the {adjective} {other}?", f"How long does it take to {verb}?", f"Will {noun} {verb} tomorrow?",
    )  # fmt: skip
    text = rng.choice(forms)
    text = text[0].upper() + text[1:]
    kind = rng.random()
    text = text.lower() if kind < 0.15 else text.rstrip("?.") if kind > 0.9 else text
    if rng.random() < 0.3 or text in talk.UNSEEN:
        text = talk.unknown_question(rng)
    return turn(text, talk.UNKNOWN, "I was not taught this." if rng.random() < 0.6 else None)


_MAKERS: dict[str, Callable[[random.Random], list[Message]]] = {
    **MAKERS,
    "worded": _worded,
    "compared": _compared,
    "asked": _asked,
    "foreign": _foreign,
}


def finishing_chats(seed: int) -> Iterator[Chat]:
    """An endless stream of the second stage's chats."""
    rng = random.Random(f"finish {seed}")
    names, weights = zip(*TASKS, strict=True)
    while True:
        messages: list[Message] = []
        if rng.random() < 0.06:
            messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
        for task in rng.choices(names, weights, k=rng.choices((1, 2), (96, 4))[0]):
            messages += _MAKERS[task](rng)
        yield {"messages": messages}
