# ruff: noqa: E501  (tables)
"""What the pocket says when it does not know, and the questions that it learns to say it on.

A model of this size will say something wrong about almost anything outside its training data. So it is taught to
recognise that it is being asked something else: on questions from a small grammar, from many subjects, with made-up
words, and on numbers that are too large for it.
"""

import random

from recipes.pocket.problem import Problem, Task
from recipes.pocket.tasks.arithmetic import WORDINGS, number

UNKNOWN = (
    "I don't know that: I am a very small model. I can calculate, spell, sort and convert, "
    "and explain the parts of Qwen3, such as RoPE or the KV cache."
)
TOO_LARGE = "That is beyond me. I add and subtract up to 5 digits, multiply up to 3 by 2 digits, and divide 3 digits by one."

SUBJECTS = (
    "Paris", "France", "the weather", "a cat", "my dog", "love", "history", "the moon", "the sun", "Berlin", "music",
    "football", "the president", "a poem", "a story", "Rome", "physics", "a black hole", "dinosaurs", "the ocean",
    "chess", "coffee", "bread", "a bicycle", "money", "the stock market", "Japan", "China", "Einstein", "Newton",
    "Shakespeare", "biology", "DNA", "evolution", "a volcano", "a river", "London", "New York", "Mars", "Jupiter",
    "the internet", "a computer", "a phone", "Linux", "Java", "JavaScript", "a database", "SQL", "an apple", "pizza",
    "my mother", "my homework", "a car", "trains", "the war", "peace", "religion", "philosophy", "Plato", "a guitar",
    "the piano", "a movie", "a book", "Harry Potter", "the news", "a recipe", "soup", "a garden", "flowers", "a tree",
    "birds", "a horse", "elephants", "the capital of Italy", "the capital of Spain", "the king of England", "gravity",
    "time travel", "the meaning of life", "happiness", "my job", "a letter", "an email", "an essay", "a song",
    "the largest country", "the highest mountain", "the longest river", "a virus", "medicine", "a headache", "sleep",
    "the color blue", "light", "electricity", "a battery", "robots", "aliens", "a dream", "politics", "the economy",
)  # fmt: skip
OTHER = (
    "What is {x}?", "Who invented {x}?", "Tell me about {x}.", "Where is {x}?", "When was {x} made?", "Write {x}.",
    "Write a poem about {x}.", "Write a story about {x}.", "Why is {x} so important?", "How do I make {x}?",
    "What do you think of {x}?", "Do you like {x}?", "Translate {x} into German.", "Who is {x}?", "Explain {x}.",
    "How old is {x}?", "What is the best {x}?", "Give me a list of facts about {x}.", "How much does {x} cost?",
    "Can you write an essay about {x}?", "what about {x}", "{x}?", "{x}", "Help me with {x}.", "Is {x} good?",
    "I want to know about {x}", "What is the history of {x}?", "How many people live in {x}?", "Draw {x}.",
    "Write a Python program for {x}.", "Summarize {x}.", "Who wrote {x}?",
    "What color is {x}?", "What is better, {x} or {y}?",
    "Show me {x}.", "Find {x} for me.", "Sing about {x} with me", "Read {x} to me", "Come with me to {x}", "Buy {x}.", "Let us talk about {x}.",
    "What is the difference between {x} and {y}?", "Tell me something about {x} and {y}.",
)  # fmt: skip
UNSEEN = (  # for the evaluation: subjects and wordings that no training question has
    "Why is the sky blue?", "Who painted the Mona Lisa?", "How far away is Saturn?", "Write a haiku about autumn.",
    "What should I cook tonight?", "When did the Titanic sink?", "Which planet has rings?", "Fix my code please",
    "Is it going to rain tomorrow?", "Name three kinds of cheese.", "Can penguins fly?", "Recommend me a good novel.",
    "How tall is the Eiffel tower?", "Where can I buy a boat?", "Play a game with me", "Plan a trip to Norway.",
    "Why do cats purr?", "Who is your favourite singer?", "How do vaccines work?", "Tell me the news of today",
)  # fmt: skip
_SYLLABLES = "ba be bi bo bu da de di do du fa fe ga ge go ha he ka ke ko la le li lo lu ma me mi mo mu na ne ni no nu pa pe po ra re ri ro ru sa se si so su ta te ti to tu va ve vi wa we za zo".split()  # noqa: SIM905


def invented(rng: random.Random) -> str:
    """A word that nobody knows, sometimes two; any letters can turn up in a question."""
    word = "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))) + rng.choice(
        ("", "", "n", "r", "s", "l", "x")
    )
    return word.capitalize() if rng.random() < 0.4 else word


def unknown_question(rng: random.Random) -> str:
    """A question outside of what the pocket was taught."""
    kind = rng.random()
    if kind < 0.1:
        return " ".join(invented(rng) for _ in range(rng.randint(1, 6))) + rng.choice(("", "?", ".", "!"))
    x, y = (rng.choice(SUBJECTS) if rng.random() < 0.6 else invented(rng) for _ in range(2))
    text = rng.choice(OTHER).format(x=x, y=y)
    return text.lower() if rng.random() < 0.2 else text


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


def _from_grammar(rng: random.Random) -> str:
    noun, other = (rng.choice(NOUNS) if rng.random() < 0.7 else invented(rng) for _ in range(2))
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
    return text[0].upper() + text[1:]


def _foreign(rng: random.Random) -> Problem:
    while (text := _from_grammar(rng) if rng.random() < 0.65 else unknown_question(rng)) in UNSEEN:
        pass
    kind = rng.random()
    text = text.lower() if kind < 0.15 else text.rstrip("?.") if kind > 0.9 else text
    return Problem((text, rng.choice(UNSEEN)), "I was not taught this.", UNKNOWN)


def _too_large(rng: random.Random) -> Problem:
    """Arithmetic beyond the pocket's reach: an honest answer is better than a wrong one."""
    op = rng.choice("+-*/")
    if op == "*":
        a, b = number(rng, rng.randint(3, 6)), number(rng, rng.randint(3, 6))
        if rng.random() < 0.4:
            a, b = number(rng, rng.randint(4, 8)), number(rng, rng.randint(1, 2))
    elif op == "/":
        a, b = number(rng, rng.randint(4, 7)), number(rng, rng.randint(1, 3))
        if rng.random() < 0.5:
            a, b = number(rng, rng.randint(1, 4)), number(rng, rng.randint(2, 4))
    else:
        a, b = number(rng, rng.randint(6, 9)), number(rng, rng.randint(1, 9))
    if op != "/" and rng.random() < 0.5:
        a, b = b, a
    return Problem(WORDINGS[op], "Too many digits.", TOO_LARGE, {"a": a, "b": b})


def _unknown(rng: random.Random) -> Problem:
    return _foreign(rng) if rng.random() < 0.7 else _too_large(rng)


TASKS = (Task("saying that it does not know", 6, _unknown, direct=0.3),)
