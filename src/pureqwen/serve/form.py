"""From the form that is asked for to its grammar. A form that has none is a Refusal that names the field.

    tools may be called    the answer        the grammar
    no                     JSON, regex       of the answer
    yes                    JSON              calls | JSON
    yes, strict ones       free              free text, then calls
    they must be           JSON, regex       calls; that of the answer is made all the same, for the next turn

Compiling it, and the limits of that, are generate/constrain.py's.
"""

from typing import TYPE_CHECKING

from pureqwen.generate import Grammar, GrammarError
from pureqwen.serve.protocol.ask import Ask, Form
from pureqwen.serve.protocol.refusal import Refusal

if TYPE_CHECKING:
    from pureqwen.chat import ChatTemplate
    from pureqwen.generate import Grammars


def grammar_of(ask: Ask, template: "ChatTemplate | None", grammars: "Grammars | None") -> Grammar | None:
    """What the answer must fit; None where it is free."""
    form, param = ask.form, ask.names.get("response_format", "response_format")
    if form is None:
        return None
    if grammars is None:
        what = "tools" if form.kind in ("tools", "strict") else param
        raise Refusal(f"{what}: this model has no tokenizer.json, which a demanded form needs", param=what)
    if ask.later is not None:
        _of_answer(ask.later, grammars, param)
    if not ask.tools:
        return _of_answer(form, grammars, param)
    try:
        # Without a template there is no chat, which is told when the conversation is to be written.
        return _of_calls(ask, form, "hermes" if template is None else template.tool_style, grammars)
    except GrammarError as error:
        if form.kind not in ("tools", "strict"):  # which of the two has no grammar?
            _of_answer(form, grammars, param)
        raise _refusal(error, "tools") from error


def _of_answer(form: Form, grammars: "Grammars", param: str) -> Grammar:
    try:
        match form.kind:
            case "json_schema":
                return grammars.json_schema(form.schema)
            case "regex":
                return grammars.regex(form.pattern)
            case _:
                return grammars.json_object()
    except GrammarError as error:
        raise _refusal(error, param) from error


def _of_calls(ask: Ask, form: Form, style: str, grammars: "Grammars") -> Grammar:
    """A tool that nobody called strict is no mistake where its schema says what no grammar can hold."""
    if form.kind == "strict":
        return grammars.mixed(ask.tools, style=style, strict=form.names or (), parallel=ask.parallel)
    answers = {"json_schema": form.schema, "json_object": {"type": "object"}}
    functions = [tool["function"] for tool in ask.tools]
    return grammars.tools(
        [{**function, "strict": function["name"] in ask.strict} for function in functions],
        style=style,
        names=form.names,
        parallel=ask.parallel,
        otherwise=answers.get(form.kind),
    )


def _refusal(error: GrammarError, param: str) -> Refusal:
    return Refusal(f"{param}: {error}", param=param, code="invalid_grammar")
