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

# Each: the operator, what is answered, and how it is told; the last one is held out.
_ONE = (
    ("+", "{name} has {value} {item}.", (
        "{name} has {a} {item} and gets {b} more. How many {item} does {name} have?", "{name} has {a} {item}. {name} buys {b} more. How many does {name} have now?",
        "{name} had {a} {item} and found {b} more. How many {item} does {name} have now?", "{name} owns {a} {item} and is given {b} {item}. How many are there in total?",
        "At first {name} has {a} {item}, then {b} more. How many {item} are that?", "{name} picks {a} {item} in the morning and {b} in the evening. How many {item} in total?",
        "{name} collected {a} {item}. A friend gives {name} {b} more. How many {item} now?", "There are {a} {item} in {name}'s box. {name} puts {b} more into it. How many {item} does {name} have?",
        "{name} counts {a} {item} on one day and {b} {item} on the next. How many altogether?",
    )),
    ("-", "{name} has {value} {item}.", (
        "{name} has {a} {item} and gives away {b}. How many {item} are left?", "{name} has {a} {item}. {name} loses {b}. How many does {name} have now?",
        "{name} had {a} {item} and sold {b} of them. How many {item} does {name} have now?", "{name} has {a} {item} and uses {b}. How many remain?",
        "Of {a} {item} {name} gives {b} to a friend. How many {item} does {name} keep?", "{name} owns {a} {item}, but {b} break. How many {item} are left?",
        "There are {a} {item} in {name}'s box. {name} takes out {b}. How many stay in the box?", "{name} starts with {a} {item} and spends {b}. How many are left?",
        "{name} drops {b} of {a} {item} on the way home. How many {item} are left?",
    )),
    ("*", "{name} has {value} {item}.", (
        "{name} has {a} {place} with {b} {item} each. How many {item} does {name} have?", "{name} fills {a} {place} with {b} {item} each. How many {item} are that?",
        "There are {b} {item} in each of {name}'s {a} {place}. How many {item} in total?", "{name} buys {a} {place} of {b} {item}. How many {item} does {name} buy?",
        "Each of {a} {place} holds {b} {item}. How many {item} does {name} have?", "{name} packs {b} {item} into each of {a} {place}. How many {item} does {name} pack?",
        "{name} owns {a} {place}, and in each are {b} {item}. How many {item} altogether?", "In {a} {place} {name} keeps {b} {item} each. How many {item} in all?",
        "{name} carries {a} {place}, each with {b} {item} inside. How many {item} does {name} carry?",
    )),
    ("/", "Each gets {value} {item}.", (
        "{name} shares {a} {item} equally among {b} friends. How many {item} does each get?", "{name} divides {a} {item} among {b} children. How many does each child get?",
        "{a} {item} are shared by {b} people. How many {item} does each get?", "{name} gives {a} {item} to {b} friends, all the same number. How many {item} does each get?",
        "{b} friends share {name}'s {a} {item}. How many does each friend get?", "{name} splits {a} {item} into {b} equal parts. How many {item} are in each?",
        "How many {item} does each get if {name} shares {a} {item} among {b}?", "{a} {item} for {b} friends of {name}: how many {item} for each?",
        "{name} hands out {a} {item} fairly to {b} neighbours. How many {item} does each get?",
    )),
)  # fmt: skip
_TWO = (
    ("*", "-", (
        "{name} has {a} {place} with {b} {item} each and gives away {c} {item}. How many are left?", "{name} buys {a} {place} of {b} {item} and uses {c} of them. How many {item} remain?",
        "In each of {a} {place} are {b} {item}. {name} takes {c} out. How many {item} are left?", "{name} fills {a} {place} with {b} {item} each, then sells {c} {item}. How many {item} are left?",
        "There are {b} {item} in each of {name}'s {a} {place}. {c} break. How many {item} are left?", "{name} owns {a} {place} of {b} {item}. {name} loses {c} {item}. How many {item} does {name} have?",
        "{name} packs {a} {place} with {b} {item} each and removes {c} {item}. How many {item} are left?", "From {a} {place} with {b} {item} each {name} gives {c} {item} to a friend. How many {item} are left?",
        "{name} carries {a} {place}, each with {b} {item} inside, and drops {c} {item}. How many {item} are left?",
    )),
    ("*", "+", (
        "{name} has {a} {place} with {b} {item} each and gets {c} more. How many {item} does {name} have?", "{name} buys {a} {place} of {b} {item} and finds {c} {item}. How many {item} in total?",
        "In each of {a} {place} are {b} {item}. {name} adds {c} {item}. How many {item} are there?", "{name} fills {a} {place} with {b} {item} each and has {c} {item} besides. How many {item} in total?",
        "There are {b} {item} in each of {name}'s {a} {place}, and {c} on the table. How many {item} in all?", "{name} owns {a} {place} of {b} {item} and is given {c} more. How many {item} does {name} have?",
        "{name} packs {a} {place} with {b} {item} each and keeps {c} more. How many {item} does {name} have?", "To {a} {place} with {b} {item} each {name} adds {c} {item}. How many {item} are that?",
        "{name} carries {a} {place}, each with {b} {item} inside, and {c} {item} in one hand. How many {item} in all?",
    )),
    ("+", "-", (
        "{name} has {a} {item}, gets {b} more and gives away {c}. How many {item} are left?", "{name} has {a} {item}. {name} buys {b} and uses {c}. How many {item} does {name} have?",
        "{name} had {a} {item}, found {b} and lost {c}. How many {item} does {name} have now?", "{name} picks {a} {item}, then {b} more, and eats {c}. How many {item} are left?",
        "First {name} gets {a} {item}, then {b} more. {c} are given away. How many {item} are left?", "{name} owns {a} {item}, is given {b} {item} and sells {c}. How many {item} are left?",
        "{a} {item} and {b} {item} are in {name}'s box. {name} takes out {c}. How many {item} stay?", "{name} collects {a} {item} and {b} more, but {c} break. How many {item} are left?",
        "{name} counts {a} {item}, adds {b} and drops {c} on the way. How many {item} are left?",
    )),
)  # fmt: skip


def _one(rng: random.Random) -> Problem:
    op, said, wordings = rng.choices(_ONE, (3, 3, 3, 2))[0]
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
        wordings,
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
    first, second, wordings = rng.choice(_TWO)
    top = 20 if first == "*" else 99
    a, b = rng.randint(2, top), rng.randint(2, top)
    middle = result(a, first, b)
    c = rng.randint(1, middle) if second == "-" else rng.randint(1, 99)
    value, fields = result(middle, second, c), _cast(rng)
    working = f"{steps(a, first, b)}\n{steps(middle, second, c)}"
    answer = f"{value} {fields['item']}" + (" are left." if second == "-" else ".")
    key = f"story {a} {first} {b} {second} {c}"
    return Problem(wordings, working, answer, {**fields, "a": a, "b": b, "c": c}, str(value), value, key)


def _story(rng: random.Random) -> Problem:
    return _one(rng) if rng.random() < 0.6 else _two(rng)


TASKS = (Task("word problems", 8, _story, direct=0.08),)
