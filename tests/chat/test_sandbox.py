"""chat/prompt/sandbox.py: hostile templates end soon, stay small, reach nothing, and say why."""

import gc
import subprocess
import sys
import time

import pytest

from pureqwen.chat import ChatTemplate, TemplateError
from pureqwen.chat.prompt.budget import Budget

MESSAGES = [{"role": "user", "content": f"hello {n}"} for n in range(300)]


def grow(step, start="'a'", end="{{ ns.s }}"):
    """A template that repeats `step` on ns.s, from `start`, and then uses it."""
    begin = f"{{% set ns = namespace(s={start}, t={start}) %}}"
    return begin + "{% for i in range(90) %}" + step + "{% endfor %}" + end


def often(body):
    return "{% for i in range(99999) %}" + body + "{% endfor %}"


ENDLESS = {
    "nested loops": often(often("")),
    "nested loops without a call": (
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}"
    ),
    "a false condition without a call": (
        "{% set r = range(99999) %}{% for a in r %}{% for b in r if false %}{% endfor %}{% endfor %}"
    ),
    "nested loops that write": often(often("x")),
    "a loop whose condition never holds": (
        "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}"
    ),
    "loops over the messages": (
        "{% for a in messages %}{% for b in messages %}{% for c in messages %}{{ c.content }}"
        "{% endfor %}{% endfor %}{% endfor %}"
    ),
    "macro recursion": "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "branching macro recursion": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "call blocks in each other": (
        "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + "{% call m() %}" * 18
        + "xxxxxxxxxx"
        + "{% endcall %}" * 18
    ),
    "a recursive loop": "{% for a in [1, 1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "a block that shows itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "lazy filters in each other": "{% set ns = namespace(s=[1]) %}"
    + often("{% set ns.s = ns.s|map('string') %}"),
    "nested lists": "{% set ns = namespace(s=1) %}" + often("{% set ns.s = [ns.s] %}"),
    "comparing long texts": (
        "{% set a = 'x' * 2000000 %}{% set b = ('x' * 1999999) ~ 'x' %}{{ b in [a] * 1000 }}"
    ),
    "sorting long texts": "{% set a = 'x' * 2000000 %}{{ ([a, a ~ 'x'] * 1000)|sort|length }}",
}
DOUBLING = {
    "~": grow("{% set ns.s = ns.s ~ ns.s %}"),
    "+": grow("{% set ns.s = ns.s + ns.s %}"),
    "+ on emoji": grow("{% set ns.s = ns.s + ns.s %}", "'😀'"),
    "+ on lists": grow("{% set ns.s = ns.s + ns.s %}", "[1]"),
    "* on lists": grow("{% set ns.s = ns.s * 2 %}", "[1]"),
    "capture": grow("{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}"),
    "join filter": grow("{% set ns.s = [ns.s, ns.s]|join(ns.s) %}"),
    "join method": grow("{% set ns.s = ns.s.join([ns.s, ns.s]) %}"),
    "replace filter": grow("{% set ns.s = ns.s|replace('a', ns.s) %}", "'aa'"),
    "replace method": grow("{% set ns.s = ns.s.replace('a', ns.s) %}", "'aa'"),
    "format filter": grow("{% set ns.s = '%s%s'|format(ns.s, ns.s) %}"),
    "format method": grow("{% set ns.s = '{0}{0}'.format(ns.s) %}"),
    "format_map method": grow("{% set ns.s = '{a}{a}'.format_map({'a': ns.s}) %}"),
    "% operator": grow("{% set ns.s = '%s%s' % (ns.s, ns.s) %}"),
    "numbers": grow("{% set ns.s = ns.s * ns.s %}", "3"),
    "shared lists as text": grow("{% set ns.s = [ns.s, ns.s] %}"),
    "shared lists as JSON": grow("{% set ns.s = {'a': ns.s, 'b': ns.s} %}", end="{{ ns.s|tojson }}"),
    "shared tuples as a key": grow("{% set ns.s = (ns.s, ns.s) %}", end="{{ {ns.s: 1} }}"),
    "shared lists compared": grow(
        "{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}", end="{{ ns.s == ns.t }}"
    ),
    "arguments of a macro": (
        "{% macro m() %}{% set ns.s = varargs %}{% endmacro %}" + grow("{{ m(ns.s, ns.s) }}")
    ),
    "kept slices": "{% set a = 'x' * 2000000 %}" + grow("{% set ns.s = [a[i:], ns.s] %}"),
    "kept ranges": grow("{% set ns.s = [range(99999)|list, ns.s] %}"),
    "sum of lists": "{{ ([[1] * 1000] * 1000)|sum(start=[])|length }}",
    "escaping": "{{ ('<' * 3000000)|e|length }}",
}
LARGE = [
    "{{ 'a' * 200000000 }}",
    "{% set x = 'a' * 200000000 %}",
    "{{ 200000000 * 'a' }}",
    "{{ [0] * 10 ** 9 }}",
    "{{ 10 ** (10 ** 8) }}",
    "{{ 1|round(100000000, 'ceil') }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ 'a'.center(1000000000) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'.rjust(1000000000) }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ 'a'.expandtabs(1000000000) }}",
    "{{ 'a\nb'|indent(1000000000) }}",
    "{{ ('a\n' * 100000)|indent('x' * 100000) }}",
    "{{ [1]|batch(1000000000, 0) }}",
    "{{ [1]|slice(1000000000) }}",
    "{{ [1]|batch(-10 ** 30) }}{{ 'a'|center(-10 ** 30) }}{{ 'a' * 10 ** 8 }}",
    "{{ [1, [2, [3]]]|tojson(indent=1000000000) }}",
    "{{ range(10 ** 9)|list }}",
    "{{ range(10 ** 30) }}",
    "{{ 'a '|wordwrap(1) }}",
    "{{ [1]|pprint }}",
    "{% filter center(1000000000) %}x{% endfilter %}",
    "{{ ('x ' * 4000000).split() }}",
    "{{ ('x' * 9000000)|list }}",
    "{{ ('a ' * 3000000)|title }}",
    "{{ strftime_now('x' * 1000000) }}",
]
COMPILING = {
    "characters": "x" * 10_000_000,
    "outputs": "{{ a }}" * 20_000,
    "parentheses": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "negations": "{{ " + "not " * 5_000 + "x }}",
    "attributes": "{{ a" + ".a" * 3_000 + " }}",
    "additions": "{{ a" + "+a" * 3_000 + " }}",
    "filters": "{{ a" + "|e" * 3_000 + " }}",
    "conditions": "{% if a %}" * 500 + "{% endif %}" * 500,
    "loops": "{% for a in b %}" * 100 + "{% endfor %}" * 100,
    "digits": "{{ " + "9" * 100_000 + " }}",
}
ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'].x }}",
    "{{ (''|attr('__class__')).x }}",
    "{{ '{0.__class__.x}'.format(1) }}",
    "{{ raise_exception._function.x }}",
    "{{ range.__globals__.x }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{% set messages.x = 1 %}",
    "{% set ns = namespace(__class__=1) %}",
    "{{ cycler(1) }}",
    "{{ joiner() }}",
    "{{ lipsum(9) }}",
    "{{ dict(a=1) }}",
    "{{ environment.budget }}",
    "{{ 'a'.encode('utf-32') }}",
    "{{ self._TemplateReference__context.x }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
]


def refuse(source):
    """Runs a template that must be refused; returns the message. Measures this thread's own time."""
    start = time.thread_time()
    with pytest.raises(TemplateError) as error:
        ChatTemplate(source).render(MESSAGES)
    assert time.thread_time() - start < 5  # it would never end; on a busy machine half a second becomes more
    assert 10 < len(str(error.value)) < 300
    return str(error.value)


@pytest.mark.parametrize("name", ENDLESS)
def test_template_never_ends(name):
    refuse(ENDLESS[name])


@pytest.mark.parametrize("name", DOUBLING)
def test_template_doubles_what_it_has(name):
    refuse(DOUBLING[name])


@pytest.mark.parametrize("source", LARGE)
def test_template_makes_something_huge_at_once(source):
    refuse(source)


@pytest.mark.parametrize("name", COMPILING)
def test_template_cannot_be_compiled_in_time(name):
    refuse(COMPILING[name])


@pytest.mark.parametrize("source", ESCAPES)
def test_template_gets_out_of_the_sandbox(source):
    refuse(source)


def test_huge_constants_are_folded_while_compiling():
    ChatTemplate("{% if false %}{{ 'a' * 200000000 }}{{ 'a'|center(200000000) }}{% endif %}")


MEASURE = """
import resource, sys
from pureqwen.chat import ChatTemplate, TemplateError
from test_sandbox import DOUBLING, ENDLESS, LARGE, MESSAGES, COMPILING
ChatTemplate("{% for m in messages %}{{ m.content|upper ~ [1] }}{% endfor %}").render(MESSAGES)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
quick = [source for name, source in ENDLESS.items() if "loop" not in name and "recursion" not in name]
for source in (*quick, *DOUBLING.values(), *LARGE, *COMPILING.values()):
    try:
        ChatTemplate(source).render(MESSAGES)
    except TemplateError:
        pass
    if peak() - before > 50_000:
        sys.exit(f"{(peak() - before) / 1000:.0f} MB: {source[:200]}")
print((peak() - before) / 1000)
"""


def test_template_takes_more_than_50_megabytes(request):
    folder = request.path.parent
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_long_chat_is_refused(chat_template_source):
    template = ChatTemplate(chat_template_source("hybrid"))
    turn = [
        {"role": "user", "content": "wörd " * 400},
        {"role": "assistant", "content": "<think>\na\n</think>\n\nb" * 9},
    ]
    text = template.render([*turn * 1500, turn[0]])
    assert len(text) > 1500 * 2000
    assert len(template.render([{"role": "user", "content": "ab " * 3_000_000}])) > 9_000_000


def test_what_templates_need_of_jinja_works():
    cases = {
        "{% for m in messages[:2] %}{{ loop.index }}{{ m.content }}{{ ', ' if not loop.last }}{% endfor %}": (
            "1hello 0, 2hello 1"
        ),
        "{% for i in [0, 1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% elif i > 3 %}{% break %}{% endif %}"
        "{{ i }}{% endfor %}": "013",
        "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}{% call m(1) %}!{% endcall %}": "12!",
        "{% set ns = namespace(a=1) %}{% for i in [1] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}": "2",
        "{{ {'a': 'é<', 'b': [1, none]}|tojson }}": '{"a": "é<", "b": [1, null]}',
        "{{ {'a': 1}|tojson(indent=2) }}": '{\n  "a": 1\n}',
        "{{ 'a,b'.split(',')|map('upper')|join('-') }}{{ 'x' * 3 }}": "A-Bxxx",
        "{{ messages|selectattr('content', 'equalto', 'hello 7')|list|length }}": "1",
        "{{ '%s-%5.2f' % ('a', 2) }}{{ '{:>3}'.format(7) }}": "a- 2.00  7",
        "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'b': 2}|items }}": "a1[('b', 2)]",
        "{{ ['b', 'a']|sort }}{{ [1, 2, 3]|sum }}{{ [3, 1]|max }}{{ [1, 1]|unique|list }}": "['a', 'b']63[1]",
        "{{ 'abc'[::-1] }}{{ 'b' in 'abc' }}{{ 1 in [1] }}{{ (1, 2) == (1, 2) }}": "cbaTrueTrueTrue",
        "{% generation %}{{ 'g' }}{% endgeneration %}{{ undefined_thing is defined }}": "gFalse",
        "{% set x %}a{{ 1 }}{% endset %}{{ x|trim ~ 2 }}{{ x is string }}": "a12True",
        "{{ '  x '|trim }}{{ 'ab'|replace('a', 'c') }}{{ 'a'|default('b') }}{{ x|default('b') }}": "xcbab",
        "{{ strftime_now('%Y')|length }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ -3|abs }}": "433" + "10243",
    }
    for source, expected in cases.items():
        assert ChatTemplate(source).render(MESSAGES) == expected, source


def test_a_list_is_weighed_as_often_as_it_is_held():
    budget = Budget(None)
    inner = ["x" * 1000]
    assert budget.weigh([inner, inner]) > 2 * budget.weigh(inner) > 2000
    assert budget.height([inner]) == 2
    with pytest.raises(TemplateError, match="too much"):
        budget.spend(budget.limit + 1)


def test_paying_a_negative_price_refills_the_budget():
    budget = Budget(None)
    budget.spend(-(10**9))
    assert budget.left == budget.limit


def test_collecting_a_large_heap_is_not_on_the_templates_clock() -> None:
    """In a program of some million objects one collection takes longer than a template may."""
    seen: list[str] = []
    template = ChatTemplate("{% for n in range(2000) %}{% set x = [n, [n]] %}{% endfor %}")

    def watch(phase: str, info: object) -> None:
        seen.append(phase)

    old = gc.get_threshold()
    gc.callbacks.append(watch)
    gc.set_threshold(1, 1, 1)  # a collection at every other object
    try:
        template.render(MESSAGES[:1])
    finally:
        gc.set_threshold(*old)
        gc.callbacks.remove(watch)
    assert gc.isenabled()
    assert len(seen) < 2000
