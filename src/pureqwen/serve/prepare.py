"""From what is asked for to rows: prompts encoded, grammars compiled, parameters checked against the model.

It may take long (a long prompt, a template, a schema), so the server calls it in a thread of its own, never
in the event loop. What the model can't do is a Refusal that names the field.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pureqwen.chat import TemplateError
from pureqwen.config import SamplingParams
from pureqwen.generate import Grammar, Row
from pureqwen.generate.intake import END_THINK, Intake, Talk
from pureqwen.serve.form import grammar_of
from pureqwen.serve.protocol.ask import Ask, renamed
from pureqwen.serve.protocol.refusal import Refusal

if TYPE_CHECKING:
    from pureqwen.generate import Grammars
    from pureqwen.tokenizer import Tokenizer

SCORES = 2**18  # log-probabilities of prompts in one request, each of some hundred bytes until it is answered


def check_prompts(ask: Ask, *, context: int, most: int | None, tokenizer: "Tokenizer | None") -> None:
    """Refuse, before anything is rendered or encoded, what can't fit into the context however it is cut.

    most: tokens of a prompt, where fewer are allowed. Of a conversation only what every template writes, but
    for blanks around it, counts.
    """
    limit = context - 1 if most is None else min(most, context - 1)
    for prompt in ask.prompts or ():
        if not isinstance(prompt, str):
            least, what = len(prompt), f"{len(prompt)} tokens"
        else:
            least = 0 if tokenizer is None else tokenizer.least(prompt, enough=limit, allow_special=True)
            what = f"at least {least} tokens"
        if least > limit:
            raise too_long(ask, what, context=context, most=most)
    if tokenizer is None:
        return
    least = 0
    for message in ask.messages:
        content = message.get("content")
        if message.get("role") != "assistant" and isinstance(content, str):
            least += tokenizer.least(content.strip(), enough=limit - least)
        if least > limit:
            raise too_long(ask, f"at least {least} tokens", context=context, most=most)


def check_lengths(ask: Ask, rows: Sequence[Row], *, context: int, most: int | None) -> None:
    """Refuse what was encoded and has more tokens than are allowed, or more to tell of them."""
    scores = sum(row.num_prompt * (1 + row.scores.top) for row in rows if row.scores is not None)
    if scores > SCORES:
        raise Refusal(
            f"logprobs with echo come to {scores} log-probabilities of prompts, in all answers together: at "
            f"most {SCORES} are possible; ask for fewer beside each token, fewer answers or shorter prompts",
            param="logprobs",
        )
    longest = max(row.num_prompt for row in rows)
    if most is not None and longest > most:
        raise too_long(ask, f"{longest} tokens", context=context, most=most)


def too_long(ask: Ask, size: str, *, context: int, most: int | None) -> Refusal:
    """400: a prompt of this size, with the limit that it is above."""
    limit = f"the context holds {context} tokens"
    if most is not None and most < context:
        limit = f"this server takes at most {most} tokens of a prompt (--max-prompt)"
    return Refusal(
        f"the prompt has {size} and {limit}: shorten the prompt",
        param="messages" if ask.prompts is None else "prompt",
        code="context_length_exceeded",
    )


def make_form(ask: Ask, intake: Intake, grammars: "Grammars | None") -> Grammar | None:
    """What the answers must fit. Raises Refusal."""
    try:
        return grammar_of(ask, intake.template, grammars)
    except Refusal:
        raise
    except ValueError as error:
        raise blamed(error, ask) from error


def make_rows(ask: Ask, intake: Intake, form: Grammar | None) -> list[Row]:
    """One row for each answer: those to the first prompt first. Raises Refusal."""
    try:
        if ask.prompts is None:
            talk = intake.read(list(ask.messages), list(ask.tools) or None, thinking_for(ask, intake))
            ask = dataclasses.replace(ask, params=params_for(ask, intake, talk))
            return [intake.answer(talk, one, constraint=form) for one in each_params(ask)]
        return [row for prompt in ask.prompts for row in _texts(ask, intake.ids(prompt), intake, form)]
    except Refusal:
        raise
    except TemplateError as error:
        raise Refusal(str(error), param="messages", code="template_error") from error
    except ValueError as error:
        raise blamed(error, ask) from error


def blamed(error: ValueError, ask: Ask) -> Refusal:
    """What the model can't do, with the field of the request that asks for it."""
    text, prompt = str(error), "messages" if ask.prompts is None else "prompt"
    if "the context holds" in text or "the cache holds" in text:
        return Refusal(text, param=prompt, code="context_length_exceeded")
    field = text.split(" ")[0].split("=")[0]
    if field == "thinking":
        param = ask.names.get(field, "enable_thinking")
        return Refusal(text if param == field else f"{param}: {text}", param=param)
    if field not in {one.name for one in dataclasses.fields(SamplingParams)}:
        return Refusal(text, param=prompt)
    names = {name: theirs for name, theirs in ask.names.items() if name != "thinking"}
    return Refusal(renamed(text, names), param=names.get(field, field))


def thinking_for(ask: Ask, intake: Intake) -> bool | None:
    """Whether to think: a quiet request does not where the model has both ways."""
    hybrid = intake.template is not None and intake.template.thinking == "hybrid"
    return False if ask.quiet and hybrid else ask.thinking


def each_params(ask: Ask) -> list[SamplingParams]:
    """Those of each answer to one prompt."""
    return [ask.params_of(choice) for choice in range(ask.n)]


def params_for(ask: Ask, intake: Intake, talk: Talk) -> SamplingParams:
    """The parameters; an effort, or a budget, is what leaves room for the closing sentence and an answer.

    An effort takes at most half of the room. In less room than the sentence has it is no limit, for
    max_tokens is a lower one; a budget that is lower yet is refused.
    """
    budget = ask.effort if ask.params.thinking_budget is None else ask.params.thinking_budget
    if budget is None or intake.tokenizer is None:
        return ask.params
    free = dataclasses.replace(ask.params, thinking_budget=None)
    params = intake.answer(talk, free).params
    assert params.max_tokens is not None and params.thinking_end is not None
    before, _, after = params.thinking_end.partition(END_THINK)
    ending = len(intake.tokenizer.encode(before)) + 1 + len(intake.tokenizer.encode(after))
    most = params.max_tokens - ending - 1
    if most >= 0:
        half = budget if ask.effort is None else params.max_tokens // 2
        return dataclasses.replace(free, thinking_budget=min(budget, half, most))
    if ask.effort is None and budget < params.max_tokens:
        name = ask.names.get("thinking_budget", "thinking_budget")
        raise Refusal(
            f"{name} is {budget}, and there is room for {params.max_tokens} tokens: ending the thinking "
            f"takes {ending}, and an answer one more",
            param=name,
        )
    return free


def _texts(ask: Ask, ids: list[int], intake: Intake, grammar: Grammar | None) -> list[Row]:
    """The rows of one prompt, which share the log-probabilities of its tokens."""
    top = (ask.params.top_logprobs or 0) if ask.score_prompt else None
    rows = [intake.text(ids, one, constraint=grammar, prompt_logprobs=top) for one in each_params(ask)]
    for row in rows[1:]:
        row.share_prompt_logprobs(rows[0])
    return rows


def prompt_ids(ask: Ask, intake: Intake) -> list[int]:
    """The ids of a prompt, or of a conversation as the template writes it, however long."""
    try:
        if intake.tokenizer is None or (ask.prompts is None and intake.template is None):
            raise Refusal("this model has no tokenizer.json, or no chat template")
        if ask.prompts is not None:
            [prompt] = ask.prompts
            assert isinstance(prompt, str)
            return intake.tokenizer.encode(prompt, allow_special=True)
        assert intake.template is not None
        thinking = thinking_for(ask, intake)
        intake.template.check_thinking(thinking)
        variables = {} if thinking is None else {"enable_thinking": thinking}
        messages = intake.template.prepare(ask.messages)
        return intake.template.encode(intake.tokenizer, messages, tools=ask.tools or None, **variables)
    except Refusal:
        raise
    except ValueError as error:
        raise blamed(error, ask) from error
