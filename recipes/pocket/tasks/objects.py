# ruff: noqa: E501  (tables)
"""JSON on demand: a result under a key that the question names, or what a sentence says as an object."""

import json
import random
from dataclasses import replace

from recipes.pocket import words
from recipes.pocket.problem import Problem, Task
from recipes.pocket.tasks import calendar, numbers, spelling
from recipes.pocket.tasks.arithmetic import problem
from recipes.pocket.tasks.stories import NAMES
from recipes.pocket.wording import filled

_ASKED = (
    "Answer in JSON with the key {key}.", "Answer as JSON with the key {key}.", 'Give JSON with the key "{key}".', "Reply with a JSON object whose key is {key}.",
    "Write the answer as JSON under the key {key}.", "JSON please, key {key}.", 'Use JSON: {{"{key}": ...}}', "Return a JSON object with {key}.", "As JSON, with the key {key}.",
    "Answer in JSON, key {key}.", "Please answer with JSON, the key is {key}.", "Return JSON with the key {key}.", "I want JSON with the key {key}.", "Give a JSON object with the key {key}.",
    'Reply in JSON, with "{key}" as the key.', "Write JSON with the key {key}.", "Answer with a JSON object, key {key}.", "Use the key {key} in a JSON object.", "Reply as JSON, key {key}, please.",
    "Please reply with JSON with the key {key}.",
)  # fmt: skip
_SAID = (
    "{name} is {age} years old and lives in {city}", "{name} lives in {city} and is {age}", "{name}, {age}, from {city}", "name {name}, age {age}, city {city}", "{name} from {city} is {age}",
    "{name}, aged {age}, of {city}", "name={name}, age={age}, city={city}", "{name} is {age} and comes from {city}",
)  # fmt: skip
_SENTENCE = (
    *filled(("Write that as JSON: <s>.", "Make JSON of this: <s>.", "Extract name, age and city as JSON: <s>", "Give me a JSON object with name, age and city: <s>.", "<s>. Write that as JSON.",
             "<s>. As JSON with name, age and city, please.", "Turn this into JSON: <s>", "JSON for this person: <s>.", "<s>. Give me that in JSON.", "As JSON: <s>"), s=_SAID),
    "Please write this as JSON: {name} is {age} years old and lives in {city}.",
)  # fmt: skip
CITIES = (
    "Paris", "London", "Berlin", "Rome", "Madrid", "Tokyo", "Oslo", "Vienna", "Prague", "Lisbon", "Athens", "Dublin", "Cairo", "Delhi", "Beijing", "Sydney", "Boston",
    "Chicago", "Denver", "Toronto", "Lima", "Bogota", "Nairobi", "Lagos", "Moscow", "Warsaw", "Zurich", "Geneva", "Milan", "Naples", "Turin", "Munich", "Hamburg", "Seoul",
    "Osaka", "Kyoto", "Hanoi", "Bangkok", "Manila", "Jakarta", "Perth", "Dallas", "Miami", "Seattle", "Austin", "Havana", "Quito", "Santiago", "Bergen", "Malmo", "Riga",
    "Tallinn", "Vilnius", "Sofia", "Belgrade", "Zagreb", "Istanbul", "Ankara", "Tunis", "Accra", "Dakar", "Shanghai", "Mumbai", "Karachi",
)  # fmt: skip
_SYLLABLES = "ba be bo da de do fa ga go ka ko la le li lo ma me mi mo na ne no pa po ra re ri ro sa se so ta te to va ve vo za zo".split()  # noqa: SIM905


def proper_name(rng: random.Random, known: tuple[str, ...]) -> str:
    """One of the known ones, or an invented one: to copy it is the skill."""
    if rng.random() < 0.6:
        return rng.choice(known)
    return (
        "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))) + rng.choice(("", "n", "r", "s", "x"))
    ).capitalize()


def as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _result(rng: random.Random) -> Problem:
    """Another task's problem, its result under a key."""
    if rng.random() < 0.5:
        found = problem(rng.randint(1, 999), rng.choice("+-"), rng.randint(1, 99))
    else:
        task = rng.choice((spelling.TASKS[1], spelling.TASKS[2], numbers.TASKS[0], calendar.TASKS[0]))
        found = task.draw(rng)
    key = (
        rng.choice(("answer", "result", "value", "output")) if rng.random() < 0.4 else words.trained_word(rng)
    )
    wording = rng.choice(found.wordings[:-1])
    text = wording.rstrip() + (" " if wording.rstrip()[-1] in "?.!=" else ". ")
    answer = as_json({key: found.value})
    return replace(
        found,
        wordings=tuple(text + asked for asked in _ASKED),
        fields={**found.fields, "key": key},
        answer=answer,
        short=answer,
    )


def _person(rng: random.Random) -> Problem:
    name, city, age = proper_name(rng, NAMES), proper_name(rng, CITIES), rng.randint(1, 99)
    answer = as_json({"name": name, "age": age, "city": city})
    fields = {"name": name, "age": age, "city": city}
    return Problem(
        _SENTENCE, f"name {name}\nage {age}\ncity {city}", answer, fields, answer, key=answer, rate=10
    )


def _json(rng: random.Random) -> Problem:
    return _result(rng) if rng.random() < 0.55 else _person(rng)


TASKS = (Task("JSON answers", 5, _json, direct=0.2),)
