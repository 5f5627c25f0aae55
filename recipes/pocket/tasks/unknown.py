# ruff: noqa: E501  (tables)
"""What the pocket says when it does not know, and the questions that it learns to say it on.

A model of this size will say something wrong about almost anything outside its training data. So it is taught to
recognise that it is being asked something else: on questions from a small grammar, from many subjects, with made-up
words, and on numbers that are too large for it.
"""

import random

from recipes.pocket import words
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
    "Who won the world cup in 1998?", "What does photosynthesis mean?", "Is coffee bad for the heart?",
    "Which language should I learn first?", "How do I get rid of ants?", "What is the tallest building on earth?",
    "Do fish sleep at night?", "Give me tips for a job interview.", "How long do turtles live?", "Who discovered penicillin?",
    "Where do pandas come from?", "What is a good name for a puppy?", "Can you recommend a restaurant nearby?",
    "Why did the Roman empire fall?", "What happens when we dream?", "Compose a lullaby for my daughter.",
    "How can I lose weight?", "What are the symptoms of flu?", "Is there life on other planets?", "Describe a sunset by the sea.",
    "Which is faster, a cheetah or a falcon?", "How do airplanes stay in the air?", "Who wrote War and Peace?",
    "What time does the bakery close?", "Should I invest in gold?", "Turn on the lights in the kitchen.",
    "How many bones does a shark have?", "What rhymes with orange?", "Why is the ocean salty?", "Set an alarm for seven.",
    "Who was the first woman in space?", "What is the currency of Brazil?", "How do I tie a tie?", "Are tomatoes fruits?",
    "Write an apology to my neighbour.", "What does my dream mean?", "How hot is the core of the earth?",
    "Does honey ever go bad?", "Which wine goes with fish?", "Give me a riddle for children.", "Who invented the telephone?",
    "Why do leaves change colour?", "What is quantum entanglement?", "How do I change a flat tyre?",
    "Is Pluto still a planet?", "Which actor played Batman?", "What is the plot of Hamlet?", "Order a pizza for me.",
    "How do birds find their way?", "When is the next solar eclipse?", "Why are flamingos pink?", "Convince me to go running.",
    "How is glass made?", "What should I wear to a wedding?", "Who owns the moon?", "Explain inflation to a child.",
    "Where is the deepest lake?", "How do magnets work?", "Draft a speech for my sister.", "What is in a Caesar salad?",
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
DEEDS = (
    "Write", "Draw", "Find", "Translate", "Recommend", "Invent", "Describe", "Show me", "Suggest", "Buy", "Book", "Open",
    "Read", "Fix", "Send", "Plan", "Sing", "Summarize", "Name", "List", "Create", "Cook", "Play", "Explain", "Imagine",
    "Tell me", "Give me", "Help me with", "Compose", "Turn on", "Order", "Remind me of", "Compare", "Look up",
)  # fmt: skip
THINGS = (
    "a haiku", "a poem", "a song", "three books", "a good film", "a recipe", "a hotel", "a game", "the news", "my email",
    "a letter", "five animals", "two countries", "a joke about dogs", "a trip", "a table", "this sentence", "a list of cities",
    "some ideas", "a plan", "a picture", "the window", "a present", "a name", "a web page", "a program", "my code", "a speech",
)  # fmt: skip
WHEN = (
    "today",
    "tomorrow",
    "tonight",
    "next week",
    "in summer",
    "at night",
    "in 1969",
    "this year",
    "every day",
    "in the end",
)
ARTICLES = ("the ", "a ", "my ", "", "", "your ", "this ", "her ")


def _thing(rng: random.Random) -> str:
    """What a question can be about: a word from the list to spell, a subject, or something that does not exist."""
    kind = rng.random()
    if kind < 0.2:
        return invented(rng)
    if kind < 0.35:
        return rng.choice(SUBJECTS)
    return rng.choice(ARTICLES) + rng.choice(words.NOUNS) + ("s" if rng.random() < 0.25 else "")


def _from_grammar(rng: random.Random) -> str:
    noun, other = _thing(rng), _thing(rng)
    aux, wh, when = rng.choice(AUX), rng.choice(WH), rng.choice(WHEN)
    verb, adjective = rng.choice(words.VERBS), rng.choice(words.ADJECTIVES)
    forms = (
        f"{wh} {aux} {noun} {verb}?", f"{wh} is {noun} {adjective}?", f"{wh} are {noun} {adjective}?",
        f"{aux} {noun} {verb}?", f"Is {noun} {adjective}?", f"How {adjective} is {noun}?", f"Who {verb}s {noun}?",
        f"Which {other} {verb}s?", f"What {verb}s like {noun}?", f"{rng.choice(DEEDS)} {rng.choice(THINGS)}.",
        f"{rng.choice(DEEDS)} {rng.choice(THINGS)} about {noun}.", f"{rng.choice(DEEDS)} {noun}.",
        f"Who is the {adjective} {other}?", f"What is the most {adjective} {other} in {noun}?",
        f"How many {other} does {noun} have?", f"Is {noun} more {adjective} than {other}?",
        f"I think {noun} {verb}s.", f"My {other} is {adjective}.", f"What {other} is it in {noun}?",
        f"Which is the {adjective} {other}?", f"How long does it take to {verb}?", f"Will {noun} {verb} {when}?",
        f"What should I {verb} {when}?", f"What {aux} {noun} {verb} {when}?", f"What is a {adjective} {other} for {noun}?",
        f"What {aux} {noun} mean?", f"{rng.choice(DEEDS)} {noun} for {other}.", f"{rng.choice(DEEDS)} {noun} {when}",
        f"Tell me the {adjective} {other} of {noun}.", f"What is {noun}?", f"What happens {when} with {noun}?",
        f"Who was the first {other} in {noun}?", f"How do I {verb} {noun}?", f"Where is {noun}?",
        f"Should I {verb} {noun} {when}?", f"What is {noun} made of?", f"How did {noun} {verb} {other}?",
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


TASKS = (Task("saying that it does not know", 7.5, _unknown, direct=0.3),)
