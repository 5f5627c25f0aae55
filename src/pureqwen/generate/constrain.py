"""Answers of a given form: a grammar says, before each choice, which tokens may come next.

    schema, regex, tools --Grammars--> Grammar --one row's place in it--> Constraint --mask (V,)--> Sampler

The grammars are compiled and followed by llguidance: an Earley parser over a lexer of regular-expression
derivatives, walked together with the trie of the vocabulary (Willard and Louf 2023, "Efficient Guided
Generation for Large Language Models", for the idea; Koo et al. 2024, "Automata-based constraints", for
tokens that don't agree with the grammar's). It does not backtrack, and counts its steps: what is too complex
ends in an error, never in a long wait.

A constraint begins after the thinking. In front of the text it lets the model open a thought, where it may
think, and after the thought the line breaks that are its habit:

    <think> ... </think> \\n\\n {"answer": 7} <|im_end|>
    ------- free -------------- grammar ----- the only choice left
"""

import functools
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from pureqwen.chat import Calls
from pureqwen.generate import forms
from pureqwen.generate.forms import mixed_form, regex_form, schema_form, tools_form
from pureqwen.generate.proportion import GrammarError, walk
from pureqwen.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Place: TypeAlias = Callable[[str, float], str]  # (error, deadline) -> " at " and where it is, or ""

OPEN, CLOSE = "<tool_call>", "</tool_call>"
KEPT = 32  # grammars
COMPILING = 4  # at a time; one that was given up goes on until it reaches its own limits
BREAKS = 2  # line breaks that may stand between a thought and the answer
STATES = 20_000  # of a grammar's lexer, of about 2 kB each


class Grammar:
    """A compiled grammar, for one tokenizer: what the rows that follow it share. It does not change.

    calls: where calls of tools may stand in its text, as in ReplyOptions.
    """

    def __init__(self, matcher: "LLMatcher", *, breaks: Mapping[int, int], calls: Calls) -> None:
        self._matcher, self.breaks, self.calls = matcher, breaks, calls

    def matcher(self) -> "LLMatcher":
        """At its beginning, for one row; the rows' matchers share nothing that one of them could spoil."""
        return self._matcher.deep_copy()


class Grammars:
    """Makes the grammars of one tokenizer, and keeps the last ones: making one costs milliseconds to seconds.

    eos_ids: ids that are no part of a text, beside the control tokens. seconds: how long compiling one may
    take. Every method raises GrammarError, a ValueError that says what is wrong with a form, and where;
    ValueError where llguidance is not installed. It may be used from several threads.
    """

    def __init__(self, tokenizer: Tokenizer, *, eos_ids: Collection[int] = (), seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._tokenizer = tokenizer
        tokens = Tokens(tokenizer, eos_ids)
        self._vocabulary = vocabulary(tokens)
        whole = enumerate(tokens.tokens)
        self._breaks = {id: len(token) for id, token in whole if token and not token.strip(b"\n")}
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(COMPILING)

    def json_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """JSON that the schema allows, its properties in the schema's order.

        A keyword that a grammar can't enforce (uniqueItems, not, ...) is an error; oneOf is taken as anyOf.
        """
        text = schema_form(schema)
        return self._grammar(text, calls="alone", place=functools.partial(self._place, schema))

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Grammar:
        """Text that the whole pattern matches; Rust's syntax, without look-around and back-references."""
        return self._grammar(regex_form(pattern))

    def tools(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        style: str,
        names: Sequence[str] | None = None,
        parallel: bool = True,
        otherwise: Mapping[str, Any] | None = None,
    ) -> Grammar:
        """A call of one of the tools, or several where they may be `parallel`.

        style: as in ChatTemplate.tool_style. names: only these tools may be called; None: any. otherwise: a
        schema; JSON of it may come in the place of calls. Of the coder's bare texts only enum and const are
        enforced: they have no other form than ending at their tag.
        """
        how: Any = {"style": style, "names": names, "parallel": parallel, "otherwise": otherwise}
        return self._grammar(tools_form(tools, tags=self._tags(), **how), calls="alone")

    def mixed(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        style: str,
        strict: Sequence[str],
        parallel: bool = True,
    ) -> Grammar:
        """Free text, and behind it, if the model wants, calls as in `tools`, which end the answer.

        strict: the names of the tools whose arguments fit their schemas; those of the others are free.
        """
        form = mixed_form(tools, style=style, strict=strict, parallel=parallel, tags=self._tags())
        return self._grammar(form, calls="whole")

    def _tags(self) -> dict[str, str]:
        """As rules: the control tokens, or their texts where the tokenizer has none."""
        known = self._tokenizer.token_id
        return {tag: tag if known(tag) is not None else json.dumps(tag) for tag in (OPEN, CLOSE)}

    def _grammar(self, form: str, *, calls: Calls = "anywhere", place: Place | None = None) -> Grammar:
        """Compiled, or one that is kept. `place` finds out where a form has its error."""
        with self._lock:
            if form in self._kept:
                self._kept.move_to_end(form)
                return self._kept[form]
        grammar = Grammar(self._compile(form, place), breaks=self._breaks, calls=calls)
        with self._lock:
            self._kept[form] = grammar
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return grammar

    def _compile(self, form: str, place: Place | None) -> "LLMatcher":
        """A matcher at its beginning. All that llguidance does is done beside, also to find the place of an
        error: who waits is free after the time, whatever happens there.
        """
        deadline = time.monotonic() + self._seconds
        if not self._places.acquire(timeout=self._seconds):
            raise GrammarError("too many grammars are being compiled: try again later")
        made: list[tuple[LLMatcher, str]] = []
        where: list[str] = []
        broken: list[BaseException] = []

        def work() -> None:
            try:
                matcher, error = start(self._vocabulary, form)
                made.append((matcher, error))
                if error and place is not None:
                    where.append(place(error, deadline))
            except BaseException as error:  # a panic in the compiler is none of Exception
                broken.append(error)
            finally:
                self._places.release()

        thread = threading.Thread(target=work, name="grammar", daemon=True)
        thread.start()
        thread.join(max(deadline - time.monotonic(), 0))
        if not made and broken:
            raise GrammarError(f"this can't be made a grammar: the compiler failed ({broken[0]})")
        if not made:
            raise GrammarError(f"this takes longer than {self._seconds:g} s to compile: make it simpler")
        [(matcher, error)] = made
        if error:
            raise GrammarError(f"this can't be made a grammar{''.join(where)}: {error}")
        return matcher

    def _place(self, schema: Mapping[str, Any], error: str, deadline: float) -> str:
        """Where a schema is wrong: the smallest part that has the same error by itself, if half of the time
        that is left is enough to find it.
        """
        now = time.monotonic()
        enough = now + (deadline - now) / 2
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        found = ""
        for path, part in walk(schema):
            if time.monotonic() > enough:
                break
            names = len(path) > 0 and path[-1] in ("properties", "$defs", "definitions", "patternProperties")
            if path and isinstance(part, Mapping) and not names and len(path) > found.count("/"):
                _, own = start(self._vocabulary, forms.form(None, {"schema": {**shared, **part}}))
                if own == error:
                    found = " at #/" + "/".join(path)
        return found


def vocabulary(tokens: "Tokens") -> "LLTokenizer":
    """The tokens as llguidance wants them: bytes, and control tokens, which no text of a grammar can make.

    Behind the last one stands an end of its own: what ends a text is the row's business.
    """
    try:
        from llguidance import LLTokenizer, TokenizerWrapper
    except ModuleNotFoundError:
        raise ValueError("structured answers need llguidance: pip install 'pureqwen[serve]'") from None
    return LLTokenizer(TokenizerWrapper(tokens))


class Tokens:
    """A tokenizer in the shape that llguidance asks for."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, eos_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.vocab_size
        self.tokens = [*map(tokenizer.token_bytes, range(tokenizer.vocab_size)), b"<|end of the grammar|>"]
        ends = {id for id in eos_ids if id < self.eos_token_id}
        self.special_token_ids = sorted({*tokenizer.special_ids.values(), *ends, self.eos_token_id})

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", errors="replace"))


def start(tokens: "LLTokenizer", form: str) -> tuple["LLMatcher", str]:
    """A matcher that has computed its first mask, so that its copies need not; and its error, if any."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(max_lexer_states=STATES, verbose_errors=False)
    matcher = LLMatcher(tokens, form, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_logit_bias()
    return matcher, described(matcher)


class Constraint:
    """One row's place in its grammar.

    opening: the id of <think>, where the model may begin with it. thinks: line breaks may come before the
    text, as they do after a thought.
    """

    def __init__(self, grammar: Grammar, *, opening: int | None = None, thinks: bool = False) -> None:
        self._matcher = grammar.matcher()
        self._opening = opening
        self._breaks, self._room = grammar.breaks, BREAKS if thinks else 0
        self._begun = False

    def allowed(self, size: int, *, ends: Collection[int]) -> Tensor:
        """Which of `size` ids may come next, (size,) bool; `ends`, which end the row, once the text is whole.

        None of them: the text is whole and can't go on, or there is an `error`.
        """
        allowed = torch.zeros(size, dtype=torch.bool)
        if self._matcher.is_error():
            return allowed
        bias = self._matcher.compute_logit_bias()  # a byte for each token, also where that ends in an error
        known = torch.frombuffer(bytearray(bias), dtype=torch.uint8)[:-1].bool()  # without the end of its own
        allowed[: len(known)] = known[:size]
        if self._matcher.is_accepting():
            allowed[list(ends)] = True
        if not self._begun and not self._matcher.is_error():
            before = [id for id, length in self._breaks.items() if length <= self._room]
            before += [] if self._opening is None else [self._opening]
            allowed[[id for id in before if id < size]] = True
        return allowed

    def push(self, token: int) -> None:
        """This token was chosen."""
        if not self._begun:
            if token == self._opening:
                self._opening = None
                return
            length = self._breaks.get(token)
            if length is not None and not self._matcher.validate_tokens([token]):
                self._room -= length
                return
            self._begun = True
        self._matcher.consume_token(token)

    @property
    def error(self) -> GrammarError | None:
        """Why no token is allowed; None where that is because the text is whole."""
        if self._matcher.is_accepting():
            return None
        error = described(self._matcher) or "no token of this model goes on with the text"
        return GrammarError(f"the grammar failed in the middle of the answer: {error}")


def described(matcher: "LLMatcher") -> str:
    """What is wrong with a matcher, on one line; "" where nothing is."""
    error = " ".join(matcher.get_error().removesuffix("<non-verbose/>").split())
    return "no text fits it" if error == "NoExtensionBias" else error
