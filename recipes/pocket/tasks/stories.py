# ruff: noqa: E501  (tables)
"""Word problems: what to compute is in the sentences; one step or two, each then worked out as the plain problem is."""

import random

from recipes.pocket.problem import Problem, Task
from recipes.pocket.tasks import arithmetic
from recipes.pocket.tasks.arithmetic import result, steps

NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Finn", "Greta", "Hugo", "Ida", "Jonas", "Kira", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tom", "Uma",
    "Vera", "Will", "Yara", "Zoe", "Lisa", "Max", "Nina", "Otto", "Peter", "Sara",
)  # fmt: skip
ITEMS = (
    "apples", "pears", "books", "coins", "cards", "eggs", "pens", "stamps", "marbles", "shells", "cookies", "balls", "stones", "tickets", "candles", "plums", "nuts",
    "flowers", "toys", "photos", "letters", "buttons", "cups", "keys",
)  # fmt: skip
PLACES = ("boxes", "bags", "baskets", "shelves", "drawers", "rows", "packs", "jars")

# Each: the operator, what is answered, how it is told, how it is asked; the last telling is held out.
_NOW = (
    "How many {item} does {name} have now?",
    "How many {item} does {name} have?",
    "How many does {name} have now?",
    "How many {item} are that?",
    "How many {item} in total?",
    "How many {item} are there?",
)
_LEFT = (
    "How many {item} are left?",
    "How many are left?",
    "How many {item} does {name} have now?",
    "How many {item} remain?",
    "How many {item} does {name} keep?",
    "How many {item} does {name} have?",
)
_ONE = (
    ("+", "{name} has {value} {item}.", (
        "{name} has {a} {item} and gets {b} more.", "{name} has {a} {item}. {name} buys {b} more.", "{name} had {a} {item} and found {b} more.", "{name} owns {a} {item} and is given {b} {item}.",
        "At first {name} has {a} {item}, then {b} more.", "{name} picks {a} {item} in the morning and {b} in the evening.", "{name} collected {a} {item}. A friend gives {name} {b} more.",
        "There are {a} {item} in {name}'s box. {name} puts in {b} more.", "{name} has {a} {item} and adds {b}.", "{name} finds {a} {item} today and {b} {item} the next day.", "{name} gets {a} {item}, and then {b} {item}.",
        "{name} has {a} {item} at home and {b} at school.", "{name} had {a} {item}. Then {name} bought {b} more.", "{name} had {a} {item}. Later {name} found {b} more.",
        "{name} had {a} {item}. Then {name} got {b} more.",
    ), _NOW),
    ("-", "{name} has {value} {item}.", (
        "{name} has {a} {item} and gives away {b}.", "{name} has {a} {item}. {name} loses {b}.", "{name} had {a} {item} and sold {b} of them.", "{name} has {a} {item} and uses {b}.",
        "Of {a} {item} {name} gives {b} to a friend.", "{name} owns {a} {item}, but {b} break.", "There are {a} {item} in {name}'s box. {b} fall out.", "{name} starts with {a} {item} and spends {b}.",
        "{name} has {a} {item} and drops {b}.", "{name} had {a} {item}, but lost {b} of them.", "{name} had {a} {item}, but threw away {b}.", "{name} has {a} {item}. A friend gets {b} of them.",
        "{name} had {a} {item}. Then {name} lost {b}.", "{name} had {a} {item}. Later {name} sold {b}.", "{name} had {a} {item} and gave {b} to a friend.", "{name} had {a} {item} and gave away {b} of them.",
        "{name} had {a} {item}. Then {name} gave away {b}.",
    ), _LEFT),
    ("*", "{name} has {value} {item}.", (
        "{name} has {a} {place} with {b} {item} each.", "{name} fills {a} {place} with {b} {item} each.", "There are {b} {item} in each of {name}'s {a} {place}.", "{name} buys {a} {place} of {b} {item}.",
        "Each of {name}'s {a} {place} holds {b} {item}.", "{name} packs {b} {item} into each of {a} {place}.", "{name} owns {a} {place}, and in each are {b} {item}.", "In {a} {place} {name} keeps {b} {item} each.",
        "{name} has {a} {place}, each with {b} {item}.", "{name} puts {b} {item} into each of {a} {place}.", "{name} carries {a} {place} with {b} {item} in each.",
        "{name} owns {a} {place} with {b} {item} in each.",
    ), _NOW),
    ("/", "Each gets {value} {item}.", (
        "{name} shares {a} {item} equally among {b} friends.", "{name} divides {a} {item} among {b} children.", "{a} {item} of {name} are shared by {b} people.", "{name} gives {a} {item} to {b} friends, all the same number.",
        "{b} friends share {name}'s {a} {item}.", "{name} splits {a} {item} into {b} equal parts.", "{name} shares {a} {item} among {b} people.", "{name} gives {b} children {a} {item} in equal parts.",
        "{name} divides {a} {item} equally among {b} friends.", "{a} {item} are divided among {b} friends by {name}.", "{name} has {a} {item} for {b} friends.",
        "{name} shares {a} {item} equally among {b} children.",
    ), ("How many {item} does each get?", "How many does each get?", "How many {item} are that for each?", "How many {item} for each?", "How many {item} are in each part?")),
)  # fmt: skip
_TWO = (
    ("*", "-", (
        "{name} has {a} {place} with {b} {item} each and gives away {c} {item}.", "{name} buys {a} {place} of {b} {item} and uses {c} of them.", "In each of {name}'s {a} {place} are {b} {item}. {c} fall out.",
        "{name} fills {a} {place} with {b} {item} each, then sells {c} {item}.", "There are {b} {item} in each of {name}'s {a} {place}. {c} break.", "{name} owns {a} {place} of {b} {item}. {name} loses {c} {item}.",
        "{name} packs {a} {place} with {b} {item} each and removes {c} {item}.", "From {a} {place} with {b} {item} each {name} gives {c} {item} to a friend.", "{name} has {a} {place} with {b} {item} each and drops {c}.",
        "{name} buys {a} {place} with {b} {item} each and loses {c}.",
    ), _LEFT),
    ("*", "+", (
        "{name} has {a} {place} with {b} {item} each and gets {c} more.", "{name} buys {a} {place} of {b} {item} and finds {c} {item}.", "In each of {name}'s {a} {place} are {b} {item}. {name} adds {c} {item}.",
        "{name} fills {a} {place} with {b} {item} each and has {c} {item} besides.", "There are {b} {item} in each of {name}'s {a} {place}, and {c} on the table.", "{name} owns {a} {place} of {b} {item} and is given {c} more.",
        "{name} packs {a} {place} with {b} {item} each and keeps {c} more.", "To {a} {place} with {b} {item} each {name} adds {c} {item}.", "{name} has {a} {place} with {b} {item} each and buys {c} more.",
        "{name} buys {a} {place} with {b} {item} each and gets {c} more.",
    ), _NOW),
    ("+", "-", (
        "{name} has {a} {item}, gets {b} more and gives away {c}.", "{name} has {a} {item}. {name} buys {b} and uses {c}.", "{name} had {a} {item}, found {b} and lost {c}.", "{name} picks {a} {item}, then {b} more, and eats {c}.",
        "First {name} gets {a} {item}, then {b} more. {c} are given away.", "{name} owns {a} {item}, is given {b} {item} and sells {c}.", "{a} {item} and {b} {item} are in {name}'s box. {c} fall out.",
        "{name} collects {a} {item} and {b} more, but {c} break.", "{name} has {a} {item}, buys {b} and drops {c}.",
        "{name} had {a} {item}, got {b} more and gave away {c}.",
    ), _LEFT),
)  # fmt: skip


def _told(tellings: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
    """Every telling but the last with every way to ask, and the held-out one."""
    return (*(f"{telling} {ask}" for telling in tellings[:-1] for ask in asked), f"{tellings[-1]} {asked[0]}")


def _one(rng: random.Random) -> Problem:
    op, said, tellings, asked = rng.choices(_ONE, (3, 3, 3, 2))[0]
    digits = rng.choice((1, 2, 2, 3))
    a = max(1, arithmetic.number(rng, digits))
    b = max(1, arithmetic.number(rng, rng.randint(1, digits)))
    if op == "-":
        a, b = max(a, b), min(a, b)
    if op == "*":
        a, b = rng.randint(2, 99), rng.randint(2, 99)
    if op == "/":
        b = rng.randint(2, 9)
        a = b * rng.randint(1, 60)
    value, fields = result(a, op, b), _cast(rng)
    return Problem(
        _told(tellings, asked),
        steps(a, op, b),
        said.format(value=value, **fields),
        {**fields, "a": a, "b": b},
        str(value),
        value,
        f"story {a} {op} {b}",
    )


def _cast(rng: random.Random) -> dict[str, str]:
    return {"name": rng.choice(NAMES), "item": rng.choice(ITEMS), "place": rng.choice(PLACES)}


def _two(rng: random.Random) -> Problem:
    first, second, tellings, asked = rng.choice(_TWO)
    top = 20 if first == "*" else 99
    a, b = rng.randint(2, top), rng.randint(2, top)
    middle = result(a, first, b)
    c = rng.randint(1, middle) if second == "-" else rng.randint(1, 99)
    value, fields = result(middle, second, c), _cast(rng)
    working = f"{steps(a, first, b)}\n{steps(middle, second, c)}"
    answer = f"{value} {fields['item']}" + (" are left." if second == "-" else ".")
    key = f"story {a} {first} {b} {second} {c}"
    return Problem(
        _told(tellings, asked), working, answer, {**fields, "a": a, "b": b, "c": c}, str(value), value, key
    )


def _story(rng: random.Random) -> Problem:
    return _one(rng) if rng.random() < 0.6 else _two(rng)


TASKS = (Task("word problems", 8, _story, direct=0.08),)
