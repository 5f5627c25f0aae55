"""A model with all that turns text into text: `load` a checkpoint, then `generate`, `chat` or `stream`.

    import pureqwen
    qwen = pureqwen.load("Qwen/Qwen3-0.6B")
    print(qwen.chat("Why is the sky blue?").content)

The way of a prompt: text -> tokenizer or template -> ids -> Row -> decode -> Reply -> Result. What the caller
leaves open comes from the mode (a hybrid model with its thinking off), then from the checkpoint's
generation_config.json, then from neutral values.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch

from pureqwen.cache import StaticAttend, StaticCache
from pureqwen.chat import ChatTemplate, Event
from pureqwen.config import ModelConfig, SamplingParams, eos_ids, read_generation_config
from pureqwen.garbage import building
from pureqwen.generate import (
    Cached,
    Grammar,
    Grammars,
    Intake,
    Messages,
    Prompt,
    Result,
    Row,
    Stepped,
    Tools,
)
from pureqwen.generate.loop import decode
from pureqwen.generate.several import each, each_tools, is_prompt
from pureqwen.generate.stepped import listened_to
from pureqwen.model import Qwen3
from pureqwen.rewrite import FusedDecoder, Rewrite, compile_blocks, for_cpu
from pureqwen.tokenizer import Tokenizer
from pureqwen.weights import load_model, resolve, save_model, write_json
from pureqwen.weights.device import usable_device


def load(
    model: str | Path = "pocket",
    *,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str | None = None,
    revision: str | None = None,
    context: int | None = None,
    rewrite: Rewrite | None = None,
) -> "Qwen":
    """A model that is ready to answer.

    model: a folder, a name on the hub such as "Qwen/Qwen3-0.6B", or one inside this package: "pocket", and
        "pocket-moe", its sibling with experts.
    dtype: "auto" (config.json's; bfloat16 for a float16 file on a CPU), "bfloat16", "float32", a torch dtype.
    device: None takes cuda, mps or cpu, the first that is there.
    revision: a branch, tag or commit on the hub.
    context: most tokens of prompt and answer together; None is what the model was made for.
    rewrite: changes the model before its weights are read (pureqwen.rewrite), for a checkpoint that was saved
        after the same change.

    A folder without tokenizer or template loads too; only asking it for text is an error. Raises ValueError,
    which says what is wrong with the name, the files or the arguments.
    """
    place = usable_device(device)
    folder = resolve(model, revision=revision)
    config = ModelConfig.from_pretrained(folder)
    limit = config.context_length
    if context is not None and not (type(context) is int and 1 <= context <= limit):
        raise ValueError(
            f"context is {context!r}: it must be 1 to {limit}, the positions that {model} was made for"
        )
    with building():
        network = load_model(folder, config, dtype=dtype, device=place, rewrite=rewrite)
        return Qwen(
            for_cpu(network) if place.type == "cpu" else network,
            tokenizer=Tokenizer.from_pretrained(folder) if (folder / "tokenizer.json").is_file() else None,
            template=ChatTemplate.from_pretrained(folder),
            generation_config=read_generation_config(folder),
            context=context,
            name=str(model),
        )


Attends = Callable[[], Sequence[StaticAttend]]


class Kept(NamedTuple):
    """What the last conversation leaves behind: its cache, the ids in it, and what computed it."""

    cache: StaticCache
    ids: list[int]
    weights: list[tuple[int, int]]
    attends: "Attends | None"


class Qwen:
    """A model, its tokenizer, its template and its defaults.

    Attributes: model (the nn.Module), config, tokenizer and template (None where the checkpoint has none),
    defaults (SamplingParams of its generation_config.json), eos_ids (the ids that end a text), context
    (tokens), name, attends (None, or what makes one `StaticAttend` of your own per layer for a new cache),
    speculative (the most tokens that are guessed ahead of a row's next one: the same answer, sooner where it
    repeats what stood before; 0, the default, guesses none).
    """

    def __init__(
        self,
        model: Qwen3,
        *,
        tokenizer: Tokenizer | None = None,
        template: ChatTemplate | None = None,
        generation_config: Mapping[str, Any] | None = None,
        context: int | None = None,
        name: str = "model",
    ) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.generation_config = dict(generation_config or {})
        self.defaults = SamplingParams.from_generation_config(generation_config)
        self.eos_ids = eos_ids(generation_config, model.config)
        self.context = context or model.config.context_length
        self.name = name
        self.attends: Attends | None = None
        self.speculative = 0
        self._grammars: Grammars | None = None
        self._compiled = False
        self._kept: list[Kept] = []  # one at most; none while an answer is being made with it

    @property
    def intake(self) -> Intake:
        """What turns prompts into rows, with the defaults as they are now."""
        return Intake(
            name=self.name,
            config=self.config,
            context=self.context,
            tokenizer=self.tokenizer,
            template=self.template,
            defaults=self.defaults,
            eos_ids=self.eos_ids,
        )

    @property
    def grammars(self) -> Grammars:
        """What makes the forms of answers, for `constraint`. ValueError without tokenizer or llguidance."""
        if self.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer.json: an answer of a form needs its texts")
        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer, eos_ids=self.eos_ids)
        return self._grammars

    @property
    def config(self) -> ModelConfig:
        """The model's, which a rewrite may change."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.model.norm.weight.dtype

    @overload
    def generate(
        self,
        prompt_or_prompts: Prompt,
        params: SamplingParams | None = None,
        *,
        constraint: Grammar | None = None,
        prompt_logprobs: int | None = None,
        **fields: Any,
    ) -> Result: ...

    @overload
    def generate(
        self,
        prompt_or_prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        constraint: Grammar | None = None,
        prompt_logprobs: int | None = None,
        **fields: Any,
    ) -> list[Result]: ...

    def generate(
        self,
        prompt_or_prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        constraint: Grammar | None = None,
        prompt_logprobs: int | None = None,
        **fields: Any,
    ) -> Result | list[Result]:
        """Continue a text, or ids, or several of either at once; a Result for one, a list of them for a list.

        Control tokens in a text are parsed: the caller owns it all. `params`, one for all or one for each,
        and any field of SamplingParams by keyword, which wins. constraint: the form of each text, one of
        `grammars`. prompt_logprobs: score the prompt's tokens too, with so many of the likeliest beside each.
        Ctrl-C returns what there is, as "interrupted".
        """
        many = isinstance(prompt_or_prompts, Sequence) and not is_prompt(prompt_or_prompts)
        prompts: Any = prompt_or_prompts if many else [prompt_or_prompts]
        chosen = each(params, len(prompts), fields)
        results = self._run(
            [
                self.intake.text(p, c, constraint=constraint, prompt_logprobs=prompt_logprobs)
                for p, c in zip(prompts, chosen, strict=True)
            ]
        )
        return results if many else results[0]

    @overload
    def chat(
        self,
        messages: Messages | str,
        tools: Tools = None,
        thinking: bool | None = None,
        params: SamplingParams | None = None,
        *,
        constraint: Grammar | None = None,
        **fields: Any,
    ) -> Result: ...

    @overload
    def chat(
        self,
        messages: Sequence[Messages],
        tools: Tools | Sequence[Tools] = None,
        thinking: bool | None = None,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        constraint: Grammar | None = None,
        **fields: Any,
    ) -> list[Result]: ...

    def chat(
        self,
        messages: Messages | str | Sequence[Messages],
        tools: Tools | Sequence[Tools] = None,
        thinking: bool | None = None,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        constraint: Grammar | None = None,
        **fields: Any,
    ) -> Result | list[Result]:
        """The answer to a conversation (a list of messages, or one user's text); or to a list of them.

        tools: OpenAI-style function definitions; for several conversations also a list of such lists
        (or None), one for each. thinking: None leaves it to the template. `params` and `fields` as in
        `generate`. constraint: the form of each answer, one of `grammars`; it begins after the thinking.
        Content never becomes a control token. The next turn of a conversation computes only what is new.
        """
        many = isinstance(messages, list | tuple) and bool(messages) and isinstance(messages[0], list | tuple)
        conversations: Any = messages if many else [messages]
        chosen = each(params, len(conversations), fields)
        offered = each_tools(tools, len(conversations)) if many else [tools]
        rows = [
            self.intake.chat(c, t, thinking, p, constraint=constraint)
            for c, t, p in zip(conversations, offered, chosen, strict=True)
        ]
        results = self._run(rows)
        return results if many else results[0]

    def stream(
        self,
        prompt_or_messages: Prompt | Messages,
        tools: Tools = None,
        thinking: bool | None = None,
        params: SamplingParams | None = None,
        *,
        constraint: Grammar | None = None,
        **fields: Any,
    ) -> "Stream":
        """The answer as it is made: iterates over Reasoning, Content, Recast, ToolCallDelta, Finish events.

        A text or ids are continued as in `generate`, messages are answered as in `chat`. Its `result` is the
        Result so far, whole after the last event.
        """
        [merged] = each(params, 1, fields)
        if not is_prompt(prompt_or_messages):
            chat = self.intake.chat(prompt_or_messages, tools, thinking, merged, constraint=constraint)
            return Stream(self, chat)
        if tools is not None or thinking is not None:
            raise ValueError("tools and thinking are for chats: give a list of messages, not a text or ids")
        return Stream(self, self.intake.text(prompt_or_messages, merged, constraint=constraint))

    def compile(self) -> None:
        """From now on answers are written by compiled steps: the first takes seconds, the others less.

        Where a step is native code on a CPU nothing is compiled, with a warning: that would be slower.
        """
        decoder = self.model.model
        on_cpu = self.device.type == "cpu" and self.attends is None
        if on_cpu and isinstance(decoder, FusedDecoder) and decoder.known() is not None:
            warnings.warn(
                "nothing is compiled: a step is native code here, and would take longer compiled",
                stacklevel=2,
            )
            return
        compile_blocks(self.model)
        self._compiled = True

    def save(self, folder: str | Path) -> None:
        """Write weights, configs, tokenizer and template into a folder that `load` and transformers read."""
        folder = Path(folder)
        save_model(self.model, folder, config=self.config)
        if self.generation_config:
            write_json(folder / "generation_config.json", self.generation_config)
        if self.tokenizer is not None:
            self.tokenizer.save(folder)
        if self.template is not None:
            self.template.save(folder)

    def _logits(self, cache: StaticCache, rows: Sequence[Row]) -> Cached:
        """How the logits of these rows are computed. On CUDA steps are recorded; not so, unless `compile` was
        called, where somebody wants to be called in each, by a hook or as an attend of their own: replaying a
        step runs no Python.
        """
        alone = self.device.type == "cuda" and self.attends is None and not listened_to(self.model)
        kind = Stepped if self._compiled or alone else Cached
        return kind(self.model, cache, rows, speculative=self.speculative)

    def _run(self, rows: list[Row]) -> list[Result]:
        try:
            for _ in self._decode(rows):
                pass
        except KeyboardInterrupt:
            pass
        return [row.result() for row in rows]

    def _decode(self, rows: list[Row]) -> Iterator[tuple[Row, list[Event]]]:
        """Run the rows with a cache; a single one goes on from the last one's, as far as their ids agree."""
        if not rows:
            return
        if len(rows) > 1:
            cache = self._new_cache(len(rows))
            yield from decode(rows, self._logits(cache, rows))
            return
        [row] = rows
        weights = fingerprint(self.model)
        kept = self._kept.pop() if self._kept else None
        known = (weights, self.attends)
        if kept is None or kept[2:] != known:  # trained, converted, moved since: all is to compute
            kept = Kept(self._new_cache(1), [], *known)
        if not row.wants_prompt_logprobs:
            # The last id is computed in any case: the next token follows from its logits.
            row.reuse(min(common_prefix(kept.ids, row.ids), len(row.ids) - 1))
        try:
            yield from decode(rows, self._logits(kept.cache, rows))
        finally:
            self._kept[:] = [kept._replace(ids=row.ids[: row.num_computed])]

    def _new_cache(self, batch: int) -> StaticCache:
        return StaticCache(
            self.config,
            batch=batch,
            limit=self.context,
            dtype=self.dtype,
            device=self.device,
            attends=self.attends and self.attends(),
        )


class Stream:
    """The events of one answer while it is made. Stop early with `close`, or by leaving the loop."""

    def __init__(self, qwen: Qwen, row: Row) -> None:
        self._row = row
        self._steps = qwen._decode([row])
        self._events = (event for _, events in self._steps for event in events)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Event:
        return next(self._events)

    @property
    def result(self) -> Result:
        """The answer so far."""
        return self._row.result()

    def close(self) -> None:
        """Stop; what has been computed stays in the cache."""
        self._steps.close()  # type: ignore[attr-defined]


def fingerprint(model: Qwen3) -> list[tuple[int, int]]:
    """Where the weights lie and how often each was written to: tells whether they have changed."""
    return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two sequences share from the start."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
