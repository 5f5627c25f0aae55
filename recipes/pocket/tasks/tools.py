# ruff: noqa: E501  (tables)
"""Tools: which one to call with which arguments, and what to say of its result. Names are read from the schemas."""

import json
import random
from typing import Any

from recipes.pocket.problem import Message, Problem, Task
from recipes.pocket.tasks.arithmetic import result
from recipes.pocket.tasks.objects import CITIES, proper_name
from recipes.pocket.wording import filled, phrased

_CALCULATE = phrased(
    filled(("work out <x>", "compute <x>", "calculate <x>", "use the calculator for <x>", "tell me what <x> is", "calculate <x> with the tool"), x=("{a} {op} {b}",)),
    filled(("what is <x>", "how much is <x>", "<x>", "what does <x> equal"), x=("{a} {op} {b}",)),
)  # fmt: skip
_WEATHER = phrased(
    ("look up the weather in {city}", "tell me the weather in {city}", "check the weather in {city}", "tell me how warm it is in {city}"),
    ("what is the weather in {city}", "how is the weather in {city}", "what is the weather like in {city}", "is it raining in {city}", "how warm is it in {city}", "is the sun shining in {city}", "do I need an umbrella in {city}", "weather in {city}"),
)  # fmt: skip
_CLOCK = phrased(
    ("look up the time in {city}", "tell me the time in {city}", "check the clock in {city}", "tell me how late it is in {city}"),
    ("what time is it in {city}", "how late is it in {city}", "what is the time in {city}", "what is the local time in {city}", "which hour is it in {city}", "time in {city}"),
)  # fmt: skip
_SKIES = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear", "stormy")


def schema(name: str, description: str, argument: str) -> Message:
    """A function of one string."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def offered(
    rng: random.Random, needed: str | None = None
) -> tuple[dict[str, tuple[str, str]], tuple[Message, ...]]:
    """One to three tools under names of their own, the needed one among them: ({kind: (name, argument)}, schemas)."""
    place = rng.choice(("city", "location"))
    kinds = {
        "calculator": (rng.choice(("calculator", "calculate")), "expression", "computes"),
        "weather": (
            rng.choice(("get_weather", "weather")),
            place,
            "the weather",
        ),
        "clock": (rng.choice(("get_time", "clock")), place, "the time"),
    }
    chosen = rng.sample(list(kinds), rng.choice((1, 1, 2, 3)))
    if needed and needed not in chosen:
        chosen[rng.randrange(len(chosen))] = needed
    schemas = tuple(schema(kinds[kind][0], kinds[kind][2], kinds[kind][1]) for kind in chosen)
    return {kind: kinds[kind][:2] for kind in chosen}, schemas


def _request(
    rng: random.Random, kind: str
) -> tuple[tuple[str, ...], dict[str, Any], str, str, dict[str, Any]]:
    """(wordings, fields, the argument's value, what is said of the result, the tool's result)"""
    if kind == "calculator":
        a, b, op = rng.randint(1, 99_999), rng.randint(1, 99_999), rng.choice("+-*/")
        if rng.random() < 0.6:
            a, b = rng.randint(1, 999), rng.randint(1, 999)
        value = result(a, op, b) if op != "/" else round(a / b, 2)
        text = f"{a} {op} {b}"
        return _CALCULATE, {"a": a, "op": op, "b": b}, text, f"{text} = {value}.", {"result": value}
    city = proper_name(rng, CITIES)
    if kind == "weather":
        degrees, sky = rng.randint(-15, 39), rng.choice(_SKIES)
        said = f"It is {degrees} degrees and {sky} in {city}."
        return _WEATHER, {"city": city}, city, said, {"temperature": degrees, "sky": sky}
    time = f"{rng.randrange(24):02}:{rng.randrange(60):02}"
    return _CLOCK, {"city": city}, city, f"It is {time} in {city}.", {"time": time}


def _call(rng: random.Random) -> Problem:
    kind = rng.choice(("calculator", "weather", "clock"))
    names, schemas = offered(rng, kind)
    wordings, fields, value, _, _ = _request(rng, kind)
    name, argument = names[kind]
    call = {"name": name, "arguments": {argument: value}}
    key = f"tool {value}"
    return Problem(
        wordings, f"{name} {argument}: {value}", "", fields, key=key, rate=10, tools=schemas, calls=(call,)
    )


def _use(rng: random.Random) -> Problem:
    """The answer, once the tool has given its result."""
    kind = rng.choice(("calculator", "weather", "clock"))
    names, schemas = offered(rng, kind)
    wordings, fields, value, said, outcome = _request(rng, kind)
    name, argument = names[kind]
    call = {"type": "function", "function": {"name": name, "arguments": {argument: value}}}
    after: tuple[Message, ...] = (
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": json.dumps(outcome)},
    )
    key = f"tool {value}"
    steps = f"{name}: {', '.join(f'{field} {found}' for field, found in outcome.items())}"
    return Problem(wordings, steps, said, fields, said, key=key, rate=10, tools=schemas, after=after)


TASKS = (
    Task("calling a tool", 5, _call, direct=0.25),
    Task("using a tool's result", 2.5, _use, direct=0.25),
)
