"""Every answer that the pocket learns is right: computed again, from the question's text, by other code."""

import calendar
import itertools
import json
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
from pocket_solver import arithmetic, computed, solve

from pureqwen import ModelConfig
from recipes.pocket.problem import Problem, Task
from recipes.pocket.shape import model_config
from recipes.pocket.tasks import TASKS, facts, system, unknown

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {task.name: task for task in TASKS}
COMPUTED = (
    "addition", "subtraction", "multiplication", "division", "word problems", "spelling", "reversing words",
    "counting letters", "comparing decimals", "sorting numbers", "weekdays and months", "dates",
    "unit conversion",
)  # fmt: skip
# The kinds of steps: a sum or product of two digits and a carry, a difference with a borrow, a part of a long
# division, a sum that is said at once, and the length of a month.
LINES = {
    r"^(\d)\+(\d)\+(\d)=(\d\d)$": lambda a, b, c, s: a + b + c == s,
    r"^(\d)\*(\d)\+(\d)=(\d\d)$": lambda a, b, c, s: a * b + c == s,
    r"^(\d)-(\d)-(\d)=(\d) borrow (\d)$": lambda a, b, c, d, e: a - b - c == d - 10 * e,
    r"^(\d\d)/(\d)=(\d) (\d\d) rest (\d)$": lambda a, b, c, bc, d: bc == b * c and a == bc + d and d < b,
    r"^(\d+) ([-+*/]) (\d+) = (\d+)$": lambda a, op, b, c: computed(a, op, b) == c,
    r"^(\w+) has (\d+)$": lambda name, n: (
        calendar.monthrange(2023, list(calendar.month_name).index(name))[1] == n
    ),
}
NUMBERS = {
    "English": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty",
    "German": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn "
    "fünfzehn sechzehn siebzehn achtzehn neunzehn zwanzig",
    "French": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze "
    "seize dix-sept dix-huit dix-neuf vingt",
    "Spanish": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "dieciséis diecisiete dieciocho diecinueve veinte",
}


def drawn(name: str, count: int = 200) -> list[tuple[Problem, str]]:
    """Problems of a task with their questions, every other one in the held-out wording."""
    rng = random.Random(f"test {name}")
    problems = [BY_NAME[name].draw(rng) for _ in range(count)]
    return [(p, p.question(rng, held_out=bool(n % 2))) for n, p in enumerate(problems)]


def ends(steps: str) -> str:
    """The last piece of the working, behind the last mark of order."""
    return re.split(r"\n|, |; ", steps)[-1]


@pytest.mark.parametrize("name", COMPUTED)
def test_an_answer_is_what_other_code_computes_from_the_question(name: str) -> None:
    for problem, question in drawn(name):
        result = solve(question)
        assert problem.short == result, question
        said = problem.answer.rstrip(".")
        if name in ("addition", "subtraction", "multiplication", "division"):
            a, op, b = arithmetic(question)
            assert said == f"{a} {op} {b} = {result}", question
        else:
            assert re.search(rf"(?<![\w.]){re.escape(result)}(?![\w])", said), (question, said)
        assert type(problem.value) in (int, float, str) and str(problem.value) in (
            result.split(" ")[0], result, str(float(result)) if re.fullmatch(r"\d+\.\d+", result) else result,
        ), question  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_all_wordings_of_a_problem_ask_for_its_answer(name: str) -> None:
    for wordings, problem in {problem.wordings: problem for problem, _ in drawn(name)}.items():
        for wording in wordings:
            question = wording.format(**problem.fields)
            assert solve(question) == problem.short, question


@pytest.mark.parametrize("name", COMPUTED)
def test_each_step_is_true_and_the_last_one_is_the_answer(name: str) -> None:
    for problem, question in drawn(name):
        assert_true(problem.steps, question)
        result, last = problem.short.lstrip("-"), ends(problem.steps)
        if name == "unit conversion":
            result = result.split()[0]
        if name == "spelling":
            assert re.sub(r"[0-9 ]", "", last) == result.replace("-", "")
        elif name == "reversing words":
            assert re.sub(r"[0-9 ]", "", last) == result
            places = list(map(int, re.findall(r"\d+", last)))
            assert places == list(range(len(result), 0, -1))
        elif name == "sorting numbers":
            assert_sorted(problem.steps, question, list(map(int, result.split(", "))))
        elif name == "comparing decimals":
            numbers = list(map(Fraction, re.findall(r"\d+\.\d+", question)))
            assert last == f"so {result} is {'larger' if Fraction(result) == max(numbers) else 'smaller'}"
            assert_compared(problem.steps, numbers)
        elif name == "division":
            assert last == f"so {result.replace('remainder', 'rest')}{'' if 'rem' in result else ' rest 0'}"
        elif name == "dates":
            stays = result.split()[0] in question
            assert last == result and ("negative" in problem.steps) == (not stays), (question, problem.steps)
        elif name == "weekdays and months" and re.search(r"\d", question):
            assert last == result
            assert_counted(problem.steps, question)
        else:
            assert re.search(rf"(?<!\w){re.escape(result)}(?: rest 0)?$", last), (question, problem.steps)


def assert_sorted(steps: str, question: str, result: list[int]) -> None:
    """The numbers of the question with equally many digits; each stands beside those of the list before it,
    up to the first that is larger, and then is in the list. A falling list is written backwards in the end.
    """
    (order, *padded), first, *lines = (line.split() for line in steps.split("\n"))
    down = result[0] > result[-1]
    assert list(map(int, padded)) == list(map(int, re.findall(r"\d+", question)))
    assert len(set(map(len, padded))) == 1 and order == ("down" if down else "up") and first == padded[:1]
    before = first
    for new, beside, after in zip(padded[1:], lines[::2], lines[1::2], strict=False):
        olds = [old.rstrip("<>") for old in beside[1::2]]
        assert set(beside[::2]) == {new} and olds == before[: len(olds)], steps
        assert all(old[-1] == (">" if new > old else "<") for old in beside[1::2]), steps
        assert all(old < new for old in olds[:-1]) and (olds[-1] > new or olds == before), steps
        assert after == sorted([*before, new])
        before = after
    assert lines[2 * len(padded) - 2 :] == ([["down", *reversed(before)]] if down else []), steps
    assert list(map(int, before[::-1] if down else before)) == result, question


def assert_counted(steps: str, question: str) -> None:
    """As many days one after the other, from the one in the question, as a division by 7 leaves."""
    division, _, listed = steps.rpartition("\n")
    days, n, rest = listed.split(", "), re.search(r"\d+", question)[0], division.split()[-1]  # type: ignore[index]
    assert division.startswith(f"{n} / 7") and int(rest) == int(n) % 7
    assert days[0] in question and len(days) == int(rest) + 1, question
    places = [list(calendar.day_name).index(day) for day in days]
    assert {(b - a) % 7 for a, b in itertools.pairwise(places)} in (set(), {1}, {6}), question


def assert_compared(steps: str, numbers: list[Fraction]) -> None:
    """Both numbers with equally many digits, and their digits compared up to the first that differ."""
    x, y, *signs = steps.partition(", ")[0].split()
    assert len(x) == len(y) and x.index(".") == y.index(".") and [Fraction(x), Fraction(y)] == numbers
    assert "".join(sign[0] for sign in signs) == x.replace(".", "")[: len(signs)]
    assert "".join(sign[-1] for sign in signs) == y.replace(".", "")[: len(signs)]
    assert all(a == b and sign == "=" for a, sign, b in signs[:-1])
    a, sign, b = signs[-1]
    assert (sign == "<" and a < b) or (sign == ">" and a > b), steps


def assert_true(steps: str, question: str) -> None:
    """Every small equation in a working."""
    for line in re.split(r"\n|, ", steps):
        for pattern, holds in LINES.items():
            if found := re.match(pattern, line):
                assert holds(*(int(x) if x.isdigit() else x for x in found.groups())), (question, line)
                break
        else:
            assert not re.search(r"\d=\d\d\b|\d/\d=|borrow \d", line), line  # a step of no known kind


def test_letters_are_placed_and_counted_in_the_working() -> None:
    for problem, question in drawn("counting letters"):
        first, _, again = problem.steps.rpartition("\n")
        letters = re.findall(r"([a-z])(\d+)(?:=(\d+))?", again.partition(";")[0])
        assert not first or first == "".join(letter + place for letter, place, _ in letters)
        assert "".join(letter for letter, _, _ in letters) == problem.fields["word"]
        assert [int(place) for _, place, _ in letters] == list(range(1, len(letters) + 1))
        if asked := problem.fields.get("letter"):
            marks = [int(mark) for letter, _, mark in letters if letter == asked]
            assert marks == list(range(1, len(marks) + 1)) and len(marks) == int(solve(question))
            assert not any(mark for letter, _, mark in letters if letter != asked)


@pytest.mark.parametrize("held_out", [False, True])
def test_a_system_prompt_is_obeyed(held_out: bool) -> None:
    task, rng = BY_NAME["obeying the system prompt"], random.Random(1)
    draw = task.unseen if held_out else task.draw
    assert draw is not None
    languages = set()
    for _ in range(250):
        problem = draw(rng)
        question, prompt = problem.question(rng), problem.before[0]["content"]
        language = next((name for name in NUMBERS if name in prompt), None)
        result = solve(question)
        languages.add(language)
        expected = NUMBERS[language].split()[int(result)] if language else result
        assert problem.answer == expected, (prompt, question)
        assert_true(problem.steps, question)
        assert problem.before[0]["role"] == "system"
    assert languages == {None, *NUMBERS}


def test_json_answers_parse_and_have_the_keys_that_were_asked_for() -> None:
    people = 0
    for problem, question in drawn("JSON answers", 400):
        answer = json.loads(problem.answer)
        if set(answer) == {"name", "age", "city"}:
            people += 1
            numbers = re.findall(r"\d+", question)
            assert numbers == [str(answer["age"])]
            assert answer["name"] in question and answer["city"] in question
            continue
        asked, form = re.fullmatch(r"(.*[?.!]) (.*JSON.*)", question).groups()  # type: ignore[union-attr]
        key = re.match(r'.*(?:"|\b(?:key|is|with) )(\w+)', form)[1]  # type: ignore[index]
        assert list(answer) == [key], question
        value, result = answer.popitem()[1], solve(asked)
        assert (value == float(result)) if isinstance(value, float) else (str(value) == result), question
    assert 100 < people < 300


def offered(problem: Problem) -> dict[str, list[str]]:
    """The arguments of each function that a problem's tools have."""
    functions = [tool["function"] for tool in problem.tools]
    return {f["name"]: list(f["parameters"]["properties"]) for f in functions}


def kind_of(question: str) -> str:
    if re.search(r"\d [-+*/] \d", question):
        return "expression"
    return "time" if re.search(r"\b(?:time|late|clock|hour)\b", question, re.IGNORECASE) else "weather"


def test_a_tool_call_has_the_arguments_that_the_question_names() -> None:
    names = set()
    for problem, question in drawn("calling a tool"):
        (call,) = problem.calls
        (argument, value), kind = *call["arguments"].items(), kind_of(question)
        assert offered(problem)[call["name"]] == [argument]
        assert re.search(
            {"expression": "calc", "time": "time|clock", "weather": "weather"}[kind], call["name"]
        )
        if kind == "expression":
            assert value == re.search(r"\d+ [-+*/] \d+", question)[0]  # type: ignore[index]
        else:
            assert re.search(rf"\bin {value}\b", question), question
        assert problem.answer == "" and json.loads(json.dumps(call)) == call
        names.add(call["name"])
    assert names == {"calculator", "calculate", "get_weather", "weather", "get_time", "clock"}


def test_a_tools_result_is_said_whole_and_a_calculators_is_right() -> None:
    for problem, question in drawn("using a tool's result"):
        call, result = problem.after[0]["tool_calls"][0]["function"], json.loads(problem.after[1]["content"])
        assert call["name"] in offered(problem)
        assert all(re.search(rf"(?<![\w.]){re.escape(str(v))}\b", problem.answer) for v in result.values())
        if kind_of(question) == "expression":
            a, op, b = re.findall(r"\d+|[-+*/]", re.search(r"\d+ [-+*/] \d+", question)[0])  # type: ignore[index]
            exact = Fraction(int(a), int(b)) if op == "/" else computed(int(a), op, int(b))
            assert abs(result["result"] - exact) <= 0.005
            assert problem.answer == f"{a} {op} {b} = {result['result']}."


def test_what_refers_back_is_answered_from_the_turns_before() -> None:
    kinds = set()
    for problem, question in drawn("referring back", 400):
        earlier = [message["content"] for message in problem.before]
        assert [message["role"] for message in problem.before] == ["user", "assistant"] * (len(earlier) // 2)
        for asked, said in zip(earlier[::2], earlier[1::2], strict=True):
            if " = " in said:
                assert said == "{} {} {} = {}.".format(*arithmetic(asked), solve(asked))
        if re.search("my name|who am i|called", question, re.IGNORECASE):
            kinds.add("name")
            name = re.search(r"Hello (\w+)!", earlier[1])[1]  # type: ignore[index]
            assert name in earlier[0] and problem.answer == f"Your name is {name}."
        elif re.search(r"\d", question):
            kinds.add("result")
            before = earlier[-1].rstrip(".").rpartition(" = ")[2]
            (b,) = re.findall(r"\d+", question)
            words = (("+", "plus|add"), ("-", "minus|subtract|away"), ("*", "times|multipl"))
            (op,) = (op for op, pattern in words if re.search(pattern, question, re.IGNORECASE))
            assert problem.answer == f"{before} {op} {b} = {computed(int(before), op, int(b))}."
            assert_true(problem.steps, question)
        else:
            kinds.add("word")
            assert problem.answer == earlier[1].replace("-", "")[::-1]
            assert earlier[0].rstrip(".").split()[-1] == problem.answer[::-1]
    assert kinds == {"name", "result", "word"}


def test_it_says_that_a_sum_is_too_large_only_where_it_is() -> None:
    too_large = 0
    for problem, question in drawn("saying that it does not know", 400):
        if problem.answer != unknown.TOO_LARGE:
            assert problem.answer == unknown.UNKNOWN and len(re.findall(r"\d+", question)) <= 1  # a year
            continue
        too_large += 1
        a, op, b = arithmetic(question)
        digits = sorted((len(str(a)), len(str(b))))
        within = {
            "+": digits[1] <= 5, "-": digits[1] <= 5, "*": digits[0] <= 2 and digits[1] <= 3,
            "/": len(str(a)) <= 3 and len(str(b)) == 1,
        }  # fmt: skip
        assert not within[op], question
    assert 50 < too_large < 200


@pytest.mark.parametrize("name", ["addition", "subtraction", "multiplication", "division"])
def test_plain_problems_stay_within_what_it_says_that_it_can(name: str) -> None:
    for _, question in drawn(name):
        a, op, b = arithmetic(question)
        short, long = sorted((len(str(a)), len(str(b))))
        assert long <= {"+": 5, "-": 5, "*": 3, "/": 3}[op] and (op != "*" or short <= 2)
        assert op != "/" or 2 <= b <= 9


def sentence(names: str) -> str:
    """The fact on a subject."""
    return next(fact.what + fact.why for fact in facts.FACTS if names in fact.names)


def test_the_facts_on_qwen3_are_those_of_its_configs() -> None:
    configs = {name: ModelConfig.preset(name) for name in ("Qwen3-0.6B", "Qwen3-32B", "Qwen3-30B-A3B")}
    moe = configs["Qwen3-30B-A3B"]
    assert f"{moe.num_experts} experts and uses {moe.num_experts_per_tok}" in sentence("MoE")
    assert f"top {moe.num_experts_per_tok} " in sentence("the router")
    assert {config.head_dim for config in configs.values()} == {128} and "it is 128" in sentence("head_dim")
    assert configs["Qwen3-0.6B"].head_dim != configs["Qwen3-0.6B"].hidden_size // (
        configs["Qwen3-0.6B"].num_attention_heads
    )
    assert [ModelConfig.preset(f"Qwen3-{s}").tie_word_embeddings for s in ("0.6B", "1.7B", "4B", "8B")] == [
        True, True, True, False,
    ]  # fmt: skip
    answers = [answer for _, answer in facts.QUESTIONS]
    sizes = re.findall(r"\d+(?:\.\d)?B(?:-A\d+B)?", next(a for a in answers if a.startswith("Dense")))
    assert all(ModelConfig.preset(f"Qwen3-{size}") for size in sizes) and len(sizes) == 8
    paths = [path for answer in answers for path in re.findall(r"src/\S+\.py", answer)]
    assert len(paths) == 4 and all((ROOT / path).is_file() for path in paths)


def test_what_it_says_about_itself_is_its_shape() -> None:
    shape = model_config(end_of_turn=0, end_of_text=0)
    rng, said = random.Random(0), set()
    for _ in range(600):
        said.add(BY_NAME["small talk"].draw(rng).answer)
    assert not any("{" in answer for answer in said)
    (size,) = (answer for answer in said if "parameters in" in answer)
    millions, layers, vocabulary = re.findall(r"\d+(?:\.\d+)?", size)
    assert float(millions) == round(shape.num_parameters() / 1e6, 1)
    assert (int(layers), int(vocabulary)) == (shape.num_hidden_layers, shape.vocab_size)


def test_every_task_is_checked_here() -> None:
    others = {
        "obeying the system prompt", "JSON answers", "calling a tool", "using a tool's result",
        "referring back", "saying that it does not know", "facts on Qwen3 and pureqwen", "small talk",
    }  # fmt: skip
    assert set(BY_NAME) == {*COMPUTED, *others}


def test_number_words_are_those_of_the_language() -> None:
    assert {name: " ".join(words) for name, words in system.NUMBERS.items()} == NUMBERS


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_steps_and_answer_are_never_empty_nor_padded(task: Task) -> None:
    """An empty thought would be learned as thinking that stops at once."""
    rng = random.Random(task.name)
    for _ in range(60):
        problem = task.draw(rng)
        assert problem.steps and problem.steps.strip() == problem.steps
        assert (problem.answer or problem.calls) and problem.answer.strip() == problem.answer
