"""From what is asked for to rows: prompts encoded, grammars compiled, parameters checked against the model.

It may take long (a long prompt, a template, a schema), so the server calls it in a thread of its own, never
in the event loop. What the model can't do is a Refusal that names the field.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pureqwen.chat import TemplateError
from pureqwen.config import SamplingParams
from pureqwen.generate import Grammar, GrammarError, Row
from pureqwen.serve.protocol.ask import Ask, Form
from pureqwen.serve.protocol.refusal import Refusal

if TYPE_CHECKING:
    from pureqwen.generate import Grammars
    from pureqwen.qwen import Qwen


def make_rows(ask: Ask, qwen: "Qwen", grammars: "Grammars | None") -> list[Row]:
    """One row for each answer: those to the first prompt first. Raises Refusal."""
    try:
        grammar = None if ask.form is None else make_grammar(ask, ask.form, qwen, grammars)
        params = [params_for(ask, choice, qwen) for choice in range(ask.n)]
        if ask.prompts is None:
            return [_chat(ask, one, qwen, grammar) for one in params]
        return [_text(ask, prompt, one, qwen, grammar) for prompt in ask.prompts for one in params]
    except Refusal:
        raise
    except GrammarError as error:
        param = "tools" if ask.form is not None and ask.form.kind == "tools" else "response_format"
        raise Refusal(str(error), param=param, code="invalid_grammar") from error
    except TemplateError as error:
        raise Refusal(str(error), param="messages", code="template_error") from error
    except ValueError as error:
        raise blamed(error, ask) from error


def blamed(error: ValueError, ask: Ask) -> Refusal:
    """What the model can't do, with the field of the request that asks for it."""
    text, prompt = str(error), "messages" if ask.prompts is None else "prompt"
    if "the context holds" in text:
        return Refusal(text, param=prompt, code="context_length_exceeded")
    field = text.split(" ")[0].split("=")[0]
    known = {one.name for one in dataclasses.fields(SamplingParams)} | {"thinking"}
    return Refusal(text, param=field if field in known else prompt)


def make_grammar(ask: Ask, form: Form, qwen: "Qwen", grammars: "Grammars | None") -> Grammar:
    """The grammar of the form that is asked for."""
    if grammars is None:
        raise Refusal(
            "this model has no tokenizer.json, which a demanded form needs", param="response_format"
        )
    match form.kind:
        case "json_object":
            return grammars.json_object()
        case "json_schema":
            return grammars.json_schema(form.schema)
        case "regex":
            return grammars.regex(form.pattern)
        case "tools":
            assert qwen.template is not None
            style = qwen.template.tool_style
            return grammars.tools(ask.tools, style=style, names=form.names, parallel=ask.parallel)


def params_for(ask: Ask, choice: int, qwen: "Qwen") -> SamplingParams:
    """The parameters of one answer; an effort becomes a budget of at most half of the room for the answer."""
    params = ask.params_of(choice)
    if ask.effort is None:
        return params
    room = qwen.intake.chat(list(ask.messages), list(ask.tools) or None, True, params).params.max_tokens
    assert room is not None
    return dataclasses.replace(params, thinking_budget=min(ask.effort, room // 2))


def _chat(ask: Ask, params: SamplingParams, qwen: "Qwen", grammar: Grammar | None) -> Row:
    tools = list(ask.tools) or None
    return qwen.intake.chat(list(ask.messages), tools, ask.thinking, params, constraint=grammar)


def _text(
    ask: Ask, prompt: str | Sequence[int], params: SamplingParams, qwen: "Qwen", grammar: Grammar | None
) -> Row:
    top = params.top_logprobs or 0
    return qwen.intake.text(
        prompt, params, constraint=grammar, prompt_logprobs=top if ask.score_prompt else None
    )


def prompt_ids(ask: Ask, qwen: "Qwen") -> list[int]:
    """The ids of a prompt, or of a conversation as the template writes it, however long."""
    try:
        if qwen.tokenizer is None or (ask.prompts is None and qwen.template is None):
            raise Refusal("this model has no tokenizer.json, or no chat template")
        if ask.prompts is not None:
            [prompt] = ask.prompts
            assert isinstance(prompt, str)
            return qwen.tokenizer.encode(prompt, allow_special=True)
        assert qwen.template is not None
        qwen.template.check_thinking(ask.thinking)
        variables = {} if ask.thinking is None else {"enable_thinking": ask.thinking}
        messages = qwen.template.prepare(ask.messages)
        return qwen.template.encode(qwen.tokenizer, messages, tools=ask.tools or None, **variables)
    except Refusal:
        raise
    except ValueError as error:
        raise blamed(error, ask) from error
