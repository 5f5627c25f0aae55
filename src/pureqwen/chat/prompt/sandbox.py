"""A Jinja environment in which a hostile chat template can neither reach out nor use up the machine.

On top of Jinja's immutable sandbox (no private attributes, nothing changed) each step pays from a Budget
before it happens. Jinja can intercept operators, calls and filters, but not slices, comparisons, `~`,
literals and the turns of a loop; those are reached by generating slightly different code from the same tree:

    for x in y:  body           ->  for x in y:  environment.tick(); body
    a[1:]                       ->  environment.cut(a[1:])
    a ~ b                       ->  environment.tilde((a, b))
    [a, b], (a, b), {a: b}      ->  environment.made([a, b]), ...
    a == b, a in b              ->  environment.seen(a) == environment.seen(b), ...
    {{ a }} and plain text      ->  yield str(environment.finalize(a))

Nothing is computed at compile time (Jinja would fold `'a' * 200000000` there). Templates have no loader, so
include, import and extends are refused. What comes out is text, or a TemplateError.
"""

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinMethodType, CodeType, MethodType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pureqwen.chat.prompt.budget import Budget, TemplateError
from pureqwen.chat.prompt.filters import make_filters, make_tests
from pureqwen.chat.prompt.functions import FUNCTIONS, MAX_BITS, Granted, call_method, check_format
from pureqwen.garbage import uncollected

MAX_CHARACTERS = 200_000
MAX_TOKENS = 12_000  # the largest of Qwen's templates has 1,500; compiling takes half a second at the limit
REFUSED = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.EvalContextModifier,
    nodes.ScopedEvalContextModifier,
)
Texts = (str, list, tuple)


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`, an assistant's text marked for training: only a scope."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(
            line
        )


class MeteredCode(CodeGenerator):
    """Jinja's code generator, with a call to the environment around what it can't intercept otherwise."""

    def _around(self, call: str, write: Callable[[Any, Frame], None], node: Any, frame: Frame) -> None:
        self.write(f"environment.{call}(")
        write(node, frame)
        self.write(")")

    def blockvisit(self, nodes: Any, frame: Frame) -> None:
        self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self._around("cut", super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.tilde((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._around("made", super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._around("made", super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._around("made", super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        self._around("seen", self.visit, node.expr, frame)
        for operand in node.ops:
            self.visit(operand, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:
        self.write(f" {operators[node.op]} ")
        self._around("seen", self.visit, node.expr, frame)

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        raise nodes.Impossible()  # all that is written passes finalize, and nothing runs while compiling


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering, which pays from `budget`."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))
    code_generator_class = MeteredCode

    def __init__(self, budget: Budget) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=(Generation, loopcontrols), optimized=False
        )
        self.budget = budget
        self.finalize = self.written
        self.filters.clear()
        self.filters.update(make_filters(budget, self.add))
        self.tests.clear()
        self.tests.update(make_tests(budget))
        self.globals.clear()
        self.globals.update({name: Granted(function) for name, function in FUNCTIONS.items()})

    # -- what the generated code calls

    def tick(self) -> None:
        self.budget.spend(16)

    def written(self, value: Any) -> Any:
        self.budget.spend(self.budget.text(value))
        return value

    def made(self, value: Any) -> Any:
        self.budget.made(value)
        return value

    def cut(self, value: Any) -> Any:
        if isinstance(value, str):
            self.budget.spend(self.budget.weigh(value))
        else:
            self.budget.made(value)
        return value

    def tilde(self, parts: Sequence[Any]) -> str:
        for part in parts:
            self.budget.spend(self.budget.text(part))
        return "".join(map(str, parts))

    def seen(self, value: Any) -> Any:
        if isinstance(value, (list, tuple, dict)):
            self.budget.spend(self.budget.weigh(value))
        elif isinstance(value, str) and len(value) > 1000:
            self.budget.spend(len(value))
        return value

    # -- what Jinja calls

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return self.add(left, right)
        self.budget.spend(32)
        if operator == "*":
            return self._multiply(left, right)
        if operator == "%" and isinstance(left, str):
            check_format(self.budget, left, right, percent=True)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            self._check_bits(left.bit_length() * max(0, right))
        return super().call_binop(context, operator, left, right)

    def add(self, left: Any, right: Any) -> Any:
        if isinstance(left, str) and isinstance(right, str):
            factor = 1 if type(left) is type(right) is str else 6  # what is safe makes the other side escaped
            self.budget.spend(factor * (self.budget.weigh(left) + self.budget.weigh(right)))
            return left + right
        if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            self.budget.spend(16 * (len(left) + len(right)))
            return self.made(operator.add(left, right))
        self.budget.spend(32)
        return left + right

    def _multiply(self, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            self._check_bits(left.bit_length() + right.bit_length())
            return left * right
        text, times = (right, left) if isinstance(right, Texts) else (left, right)
        if isinstance(text, Texts) and isinstance(times, int):
            self.budget.spend(self.budget.weigh(text) * max(0, times))
            return self.cut(text * times)
        return left * right

    def _check_bits(self, bits: int) -> None:
        if bits > MAX_BITS:
            raise TemplateError(f"the chat template computes a number of more than {MAX_BITS} bits")

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, (str, int)):
            self.seen(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        pattern = value.__self__

        def format(*args: Any, **kwargs: Any) -> str:
            check_format(self.budget, pattern, [*args, kwargs], percent=False)
            return wrapped(*args, **kwargs)

        return Granted(format)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        return __self._call(__context, __obj, args, kwargs)

    def _call(self, context: Context, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loop = {name: kwargs.pop(name) for name in ("_loop_vars", "_block_vars") if name in kwargs}
        self.budget.spend(64)
        self.made(args)
        if kwargs:
            self.made(kwargs)
        if isinstance(function, (Granted, Macro, LoopContext, Undefined)):
            return super().call(context, function, *args, **kwargs, **loop)
        if isinstance(function, (MethodType, BuiltinMethodType)):
            owner, name = function.__self__, function.__name__
            if isinstance(owner, LoopContext) and name in ("cycle", "changed"):
                return super().call(context, function, *args, **kwargs)
            return call_method(self.budget, owner, name, args, kwargs)
        raise TemplateError(f"a chat template may not call {type(function).__name__} objects")


def parse(source: str) -> nodes.Template:
    """The syntax tree of a template; TemplateError when it is not valid, too long, or refused."""
    if len(source) > MAX_CHARACTERS:
        raise TemplateError(f"the chat template has {len(source)} characters, {MAX_CHARACTERS} are allowed")
    environment = Sandbox(Budget(None))
    try:
        tokens = environment.lexer.tokeniter(source, None)
        if sum(1 for _ in itertools.islice(tokens, MAX_TOKENS + 1)) > MAX_TOKENS:
            raise TemplateError(f"the chat template has more than {MAX_TOKENS} tokens")
        tree = environment.parse(source)
        for node in tree.find_all(REFUSED):
            tag = {"FromImport": "import"}.get(type(node).__name__, type(node).__name__.lower())
            raise TemplateError(f"the chat template uses {tag} in line {node.lineno}, which is refused")
    except TemplateError:
        raise
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"the chat template is not valid in line {error.lineno}: {error.message}"
        ) from None
    except Exception as error:
        raise TemplateError(f"the chat template is not valid: {_describe(error)}") from None
    return tree


def compile(tree: nodes.Template) -> CodeType:
    """The code of a syntax tree, to be run any number of times."""
    try:
        return Sandbox(Budget(None)).compile(tree)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"the chat template is not valid in line {error.lineno}: {error.message}"
        ) from None
    except Exception as error:
        raise TemplateError(f"the chat template can't be compiled: {_describe(error)}") from None


def run(code: CodeType, variables: Mapping[str, Any]) -> str:
    """The text that a template makes of `variables`, which must be plain data (str, int, list, dict, ...)."""
    try:
        with uncollected():  # a collection among many objects takes longer than a template may
            environment = Sandbox(Budget(dict(variables)))  # the clock runs from here
            template = environment.template_class.from_code(environment, code, dict(environment.globals))
            text = "".join(template.root_render_func(template.new_context(dict(variables))))
            environment.budget.check_time()
        return text
    except TemplateError:
        raise
    except RecursionError:
        raise TemplateError("the chat template, or what it is given, is nested too deep") from None
    except Exception as error:
        raise TemplateError(f"the chat template failed: {_describe(error)}") from None


def _describe(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return str(error) or type(error).__name__
