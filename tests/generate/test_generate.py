"""generate, chat and stream on a tiny random model that has a tokenizer and a template."""

import json

import pytest
import torch

import pureqwen
from pureqwen import SamplingParams
from pureqwen.chat import Content, Finish, Reasoning

THINK, END_THINK = "<think>", "</think>"
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def qwen(speaking):
    torch.set_num_threads(1)
    return pureqwen.load(speaking[0])


@pytest.fixture
def forwards(qwen):
    """How many tokens each forward computes."""
    seen = []
    hook = qwen.model.model.embed_tokens.register_forward_hook(
        lambda m, args, out: seen.append(args[0].numel())
    )
    yield seen
    hook.remove()


def test_a_batch_of_different_parameters_gives_each_prompt_what_it_gets_alone(qwen):
    prompts = ["hello", "what is the attention of a model", "a"]
    params = [
        SamplingParams(max_tokens=9, temperature=0),
        SamplingParams(max_tokens=30, seed=5, top_p=0.9),
        SamplingParams(
            max_tokens=17, seed=5, temperature=1.5, top_k=9, repetition_penalty=1.3, logprobs=True
        ),
    ]
    together = qwen.generate(prompts, params)
    for prompt, one, result in zip(prompts, params, together, strict=True):
        alone = qwen.generate(prompt, one)
        assert alone.token_ids == result.token_ids
        assert len(alone.token_ids) == one.max_tokens
        assert alone.text == result.text
        assert result.finish_reason == "length"
    assert together[0].logprobs is None and len(together[2].logprobs) == 17


def test_forms_of_prompts(qwen):
    ids = qwen.tokenizer.encode("hello")
    one = qwen.generate("hello", max_tokens=3, temperature=0)
    for prompt in (ids, tuple(ids), torch.tensor(ids)):
        assert qwen.generate(prompt, max_tokens=3, temperature=0).token_ids == one.token_ids
    both = qwen.generate(["hello", ids], max_tokens=3, temperature=0)
    assert [r.token_ids for r in both] == [one.token_ids] * 2
    assert qwen.generate([]) == []


@pytest.mark.parametrize(
    ("prompt", "fields", "message"),
    [
        ("", {}, "the prompt is empty"),
        ([10**9], {}, "holds the token 1000000000, but .* has rows for the ids 0 to"),
        ([-1], {}, "holds the token -1"),
        ([10**3999], {}, r"holds the token 10{76}\.\.\., but"),
        ([1.5], {}, "prompt"),
        (None, {}, "prompt"),
        ("a " * 600, {}, "tokens and the context holds 512"),
        ("a", {"temprature": 1}, "unknown sampling parameter 'temprature'"),
        ("a", {"temperature": float("nan")}, "temperature"),
        ("a", {"max_tokens": 0}, "max_tokens"),
        ("a", {"stop_token_ids": [10**6]}, "stop_token_ids holds the token 1000000"),
        ("a", {"logit_bias": {10**6: 1.0}}, "logit_bias holds the token 1000000"),
        ("a \ud800", {}, "surrogate"),
    ],
)
def test_bad_prompts_and_parameters_are_value_errors(qwen, prompt, fields, message):
    with pytest.raises(ValueError, match=message):
        qwen.generate(prompt, **fields)


def test_params_must_be_one_or_one_for_each(qwen):
    with pytest.raises(ValueError, match="2 params for 3 prompts"):
        qwen.generate(["a", "b", "c"], [SamplingParams()] * 2)
    for wrong in ({"seed": 1}, "greedy", 5, [{"seed": 1}]):
        for ask in (qwen.generate, qwen.chat, qwen.stream):
            with pytest.raises(ValueError, match="must be a SamplingParams, or a list"):
                ask("a", params=wrong)


def test_a_tensor_of_several_prompts_is_not_run_together_into_one(qwen):
    assert qwen.generate(torch.tensor([[5, 6]]), max_tokens=1).usage.prompt_tokens == 2
    for wrong in (torch.tensor([[5, 6], [7, 8]]), torch.tensor(5), b"ab"):
        with pytest.raises(ValueError, match="a prompt"):
            qwen.generate(wrong, max_tokens=1)


def test_a_token_beyond_the_embedding_is_an_error_that_names_it(qwen, speaking):
    """Embedding-4B and 8B have 151,665 rows and 151,669 ids."""
    end = qwen.tokenizer.token_id(END_THINK)
    rows = qwen.config.vocab_size
    object.__setattr__(qwen.config, "vocab_size", end)
    try:
        with pytest.raises(
            ValueError, match=r"holds the token \d+ \('</think>'\), but .* rows for the ids 0 to"
        ):
            qwen.generate([5, end])
    finally:
        object.__setattr__(qwen.config, "vocab_size", rows)


def test_ids_beyond_the_tokenizer_are_never_sampled(qwen):
    result = qwen.generate("hello", temperature=100.0, seed=1, max_tokens=400, ignore_eos=True)
    assert max(result.token_ids) < qwen.tokenizer.vocab_size < qwen.config.vocab_size


def test_a_full_context_ends_with_length_and_without_a_limit_that_is_the_rest(qwen):
    ids = [5] * 500
    for fields in ({}, {"max_tokens": 10_000}):
        result = qwen.generate(ids, temperature=0, ignore_eos=True, **fields)
        assert (len(result.token_ids), result.finish_reason) == (12, "length")


def test_context_caps_the_model(speaking):
    small = pureqwen.load(speaking[0], context=32)
    assert len(small.generate([5] * 30, temperature=0, ignore_eos=True).token_ids) == 2
    with pytest.raises(ValueError, match="context is 513"):
        pureqwen.load(speaking[0], context=513)


def test_stop_token_ids_end_the_text_and_ignore_eos_does_not(qwen):
    free = qwen.generate("hello", temperature=0, max_tokens=20)
    third = free.token_ids[2]
    first = free.token_ids.index(third)
    stopped = qwen.generate("hello", temperature=0, max_tokens=20, stop_token_ids=[third])
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.finish_reason == "stop"
    later = qwen.generate("hello", temperature=0, max_tokens=20, stop_token_ids=[third], min_tokens=10)
    assert len(later.token_ids) >= 10


def test_the_checkpoints_own_ends_stop_it_and_ignore_eos_goes_on(qwen):
    [end] = qwen.eos_ids
    fields = {"temperature": 0, "max_tokens": 5, "logit_bias": {end: 100.0}}
    stopped = qwen.generate("hello", **fields)
    assert (stopped.token_ids, stopped.text, stopped.finish_reason) == ([end], "", "stop")
    assert len(qwen.generate("hello", ignore_eos=True, **fields).token_ids) == 5


def test_stop_strings_end_the_text_before_them(qwen):
    free = qwen.generate("hello", temperature=0, max_tokens=30)
    stop = free.text[4:7]
    stopped = qwen.generate("hello", temperature=0, max_tokens=30, stop=[stop])
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_stop_strings_wait_for_min_tokens_as_the_end_of_text_does(qwen):
    free = qwen.generate("hello", temperature=0, max_tokens=30)
    stop = free.text[4]
    late = qwen.generate("hello", temperature=0, max_tokens=30, stop=stop, min_tokens=25)
    assert len(late.token_ids) >= 25
    assert late.text.startswith(qwen.tokenizer.decode(free.token_ids[:24]))


def test_an_end_of_text_beyond_the_rows_is_one_that_never_comes(qwen):
    """A small model with the files of a large one: the mask of min_tokens indexed past the logits."""
    strange = pureqwen.qwen.Qwen(qwen.model, generation_config={"eos_token_id": [10**6]})
    assert len(strange.generate([5], temperature=0, min_tokens=2, max_tokens=3).token_ids) == 3


def test_logprobs_are_the_log_softmax_of_the_raw_logits(qwen):
    result = qwen.generate("hello", temperature=2.0, top_k=2, seed=3, max_tokens=6, top_logprobs=4)
    ids = qwen.tokenizer.encode("hello")
    with torch.inference_mode():
        logits = qwen.model(torch.tensor(ids + result.token_ids))
    expected = logits.log_softmax(-1)[len(ids) - 1 : -1]
    for step, item in enumerate(result.logprobs):
        assert item.token_id == result.token_ids[step]
        assert item.text == qwen.tokenizer.decode([item.token_id])
        assert item.logprob == pytest.approx(expected[step, item.token_id].item(), abs=1e-4)
        best = expected[step].topk(4)
        assert [top[0] for top in item.top] == best.indices.tolist()
        assert [top[2] for top in item.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert not item.forced


# --- precedence


def resolved(qwen, messages, thinking=None, **fields):
    return qwen.intake.chat(messages, None, thinking, SamplingParams(**fields)).params


def test_defaults_come_from_generation_config_and_the_mode_and_the_user_stand_above(qwen):
    assert resolved(qwen, HELLO).temperature == 0.9
    assert resolved(qwen, HELLO, thinking=False).temperature == 0.7
    assert resolved(qwen, HELLO, thinking=False).top_k == 20
    assert resolved(qwen, HELLO, thinking=False, temperature=0).temperature == 0
    assert resolved(qwen, HELLO).top_p == 1.0


def test_the_mode_follows_the_last_soft_switch(qwen):
    switch = [{"role": "user", "content": "hello /no_think"}]
    assert resolved(qwen, switch).temperature == 0.7
    back = [*switch, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "again /think"}]
    assert resolved(qwen, back).temperature == 0.9


def test_a_greedy_file_stays_greedy_in_both_modes(qwen):
    sampled = qwen.defaults
    qwen.defaults = SamplingParams.from_generation_config({"do_sample": False})
    try:
        assert resolved(qwen, HELLO).temperature == 0
        assert resolved(qwen, HELLO, thinking=False).temperature == 0
        assert resolved(qwen, HELLO, thinking=False, temperature=0.5).temperature == 0.5
    finally:
        qwen.defaults = sampled


# --- thinking


def opening(qwen):
    """Parameters that make the random model open its thinking with its first token, and never close it."""
    tokenizer = qwen.tokenizer
    bias = {tokenizer.token_id(END_THINK): -100.0}
    return {"temperature": 0, "ignore_eos": True, "logit_bias": bias}


@pytest.fixture
def opened(qwen):
    """The model with a template that opens the thinking in the prompt."""
    template = qwen.template
    qwen.template = pureqwen.ChatTemplate(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n<think>\n"
    )
    yield qwen
    qwen.template = template


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_thinking_budget_ends_in_an_answer(opened, budget):
    close = opened.tokenizer.token_id(END_THINK)
    sentence = "\n\nEnough of that.\n</think>\n\n"
    before = opened.tokenizer.encode(sentence.partition(END_THINK)[0])
    after = opened.tokenizer.encode("\n\n")
    length = len(before) + 1 + len(after)
    result = opened.chat(
        HELLO,
        thinking_budget=budget,
        thinking_end=sentence,
        max_tokens=budget + length + 5,
        logprobs=True,
        **opening(opened),
    )
    assert result.token_ids[budget : budget + length] == [*before, close, *after]
    assert result.reasoning is not None and result.reasoning.endswith("Enough of that.")
    assert result.content
    assert result.usage.forced_tokens == length
    assert result.usage.completion_tokens == budget + length + 5
    assert [item.forced for item in result.logprobs] == [False] * budget + [True] * length + [False] * 5


def test_a_budget_counts_after_the_models_own_opening_tag(qwen):
    think = qwen.tokenizer.token_id(THINK)
    fields = {**opening(qwen), "logit_bias": {think: 100.0}}
    first = qwen.chat(HELLO, max_tokens=1, **fields)
    assert first.token_ids == [think]
    result = qwen.chat(HELLO, thinking_budget=0, thinking_end="</think>", max_tokens=4, **fields)
    assert result.token_ids[:2] == [think, qwen.tokenizer.token_id(END_THINK)]


def test_a_budget_leaves_room_for_an_answer_where_the_model_opens_the_thinking_itself(qwen):
    """Its <think> is a token that budget and sentence do not count; pitfall 27, a budget without answer."""
    think = qwen.tokenizer.token_id(THINK)
    fields = {**opening(qwen), "thinking_budget": 5, "thinking_end": "Enough.</think>\n\n"}
    fields["logit_bias"] = {think: 100.0, qwen.tokenizer.token_id(END_THINK): -100.0}
    with pytest.raises(ValueError, match="give at least") as error:
        qwen.chat(HELLO, max_tokens=6, **fields)
    least = int(str(error.value).rpartition(" ")[2])
    result = qwen.chat(HELLO, max_tokens=least, **fields)
    assert result.token_ids[0] == think
    assert result.usage.forced_tokens == least - 6
    assert result.content
    longer = qwen.chat(HELLO, max_tokens=least + 1, **fields)
    assert longer.usage.reasoning_tokens == result.usage.reasoning_tokens + 1


def test_a_thought_that_was_never_opened_counts_as_reasoning_once_it_is_closed(qwen):
    row = qwen.intake.chat(HELLO, None, True, SamplingParams(temperature=0, max_tokens=20))
    for token in [*qwen.tokenizer.encode("hmm"), qwen.tokenizer.token_id(END_THINK)]:
        assert row.num_reasoning == 0
        row.append(token, forced=False)
    told = row.result()
    assert told.reasoning == "hmm" and told.usage.reasoning_tokens == len(told.token_ids) - 1


@pytest.mark.parametrize("prompt", ["<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n"])
def test_a_budget_holds_for_a_text_that_is_continued_too(qwen, prompt):
    opens = prompt.endswith("\n<think>\n")
    fields = {**opening(qwen), "thinking_end": "Enough.</think>\n\n", "max_tokens": 40}
    fields["logit_bias"] = {
        **fields["logit_bias"],
        qwen.tokenizer.token_id(THINK): -100.0 if opens else 100.0,
    }
    result = qwen.generate(prompt, thinking_budget=2, **fields)
    close = 2 + len(qwen.tokenizer.encode("Enough.")) + (not opens)
    assert result.token_ids[close] == qwen.tokenizer.token_id(END_THINK)
    assert result.reasoning.endswith("Enough.")
    assert "</think>\n\n" in result.text
    free = qwen.generate(prompt, **fields)
    assert free.reasoning is None and free.usage.forced_tokens == 0


def test_the_default_sentence_closes_with_the_control_token(opened):
    result = opened.chat(HELLO, thinking_budget=3, max_tokens=200, **opening(opened))
    close = opened.tokenizer.token_id(END_THINK)
    assert result.token_ids.count(close) == 1
    assert "Considering the limited time by the user" in result.reasoning
    assert END_THINK not in result.reasoning


def test_a_budget_that_leaves_no_answer_is_an_error(opened):
    with pytest.raises(
        ValueError, match=r"leaves nothing of max_tokens 20 for the answer: give at least \d+"
    ):
        opened.chat(HELLO, thinking_budget=10, max_tokens=20)


def test_an_end_inside_the_thinking_is_not_an_empty_answer(opened):
    [end] = opened.eos_ids
    result = opened.chat(HELLO, temperature=0, logit_bias={end: 100.0}, min_tokens=4, max_tokens=30)
    assert result.finish_reason == "stop"
    assert result.content is None
    assert result.reasoning


def test_thinking_that_a_template_can_not_do_is_an_error(opened):
    with pytest.raises(ValueError, match="2507"):
        opened.chat(HELLO, thinking=False)


# --- the stream and the kept cache


def test_the_stream_tells_what_the_result_holds(qwen):
    stream = qwen.stream(HELLO, temperature=0, max_tokens=25)
    events = list(stream)
    result = stream.result
    told = "".join(e.text for e in events if isinstance(e, Content))
    thought = "".join(e.text for e in events if isinstance(e, Reasoning))
    assert told.strip() == (result.content or "").strip()
    assert thought.strip() == (result.reasoning or "").strip()
    assert events[-1] == Finish(result.finish_reason)
    assert result.token_ids == qwen.chat(HELLO, temperature=0, max_tokens=25).token_ids


def test_a_chat_computes_only_the_ids_past_the_longest_common_prefix(qwen, forwards):
    first = qwen.chat(HELLO, thinking=False, temperature=0, max_tokens=10)
    messages = [*HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "and now?"}]
    old = qwen.intake.chat(HELLO, None, False, SamplingParams()).ids
    new = qwen.intake.chat(messages, None, False, SamplingParams()).ids
    shared = next(n for n, (a, b) in enumerate(zip(old + first.token_ids, new, strict=False)) if a != b)
    forwards.clear()
    second = qwen.chat(messages, thinking=False, temperature=0, max_tokens=10)
    assert forwards == [len(new) - shared] + [1] * 9
    assert second.usage.cached_tokens == shared > 10
    fresh = pureqwen.qwen.Qwen(
        qwen.model, tokenizer=qwen.tokenizer, template=qwen.template, generation_config=qwen.generation_config
    )
    assert fresh.chat(messages, thinking=False, temperature=0, max_tokens=10).token_ids == second.token_ids


def test_the_same_prompt_again_computes_one_token_of_it(qwen, forwards):
    ids = list(range(5, 45))
    one = qwen.generate(ids, temperature=0, max_tokens=4)
    forwards.clear()
    two = qwen.generate(ids, temperature=0, max_tokens=4)
    assert forwards == [1, 1, 1, 1]
    assert one.token_ids == two.token_ids
    assert two.usage.cached_tokens == 39


@pytest.mark.parametrize("change", ["trained", "converted", "rebuilt"])
def test_a_kept_cache_is_not_used_for_other_weights(speaking, forwards, change):
    """Keys and values of the old weights would be wrong, or of a dtype that can't be written to."""
    qwen = pureqwen.load(speaking[0])
    ids = list(range(5, 45))
    qwen.generate(ids, max_tokens=1)
    block = qwen.model.model.layers[0]
    if change == "trained":
        with torch.no_grad():
            block.self_attn.k_proj.weight.mul_(0.5)
    elif change == "converted":
        qwen.model.bfloat16()
    else:
        block.self_attn.k_norm = torch.nn.Identity()
    result = qwen.generate(ids, temperature=0, max_tokens=1, logprobs=True)
    assert result.usage.cached_tokens == 0
    fresh = pureqwen.Qwen(qwen.model, tokenizer=qwen.tokenizer)
    fresh = fresh.generate(ids, temperature=0, max_tokens=1, logprobs=True)
    assert result.logprobs[0].logprob == fresh.logprobs[0].logprob
    assert qwen.generate(ids, max_tokens=1).usage.cached_tokens == 39


def test_a_stream_left_early_keeps_what_there_is_and_the_cache(qwen, forwards):
    ids = list(range(5, 45))
    stream = qwen.stream(ids, temperature=0, max_tokens=100)
    for n, _ in enumerate(stream):
        if n == 3:
            break
    stream.close()
    result = stream.result
    assert result.finish_reason == "interrupted"
    assert 1 <= len(result.token_ids) < 100
    forwards.clear()
    again = qwen.generate(ids, temperature=0, max_tokens=100)
    assert forwards[0] == 1
    assert again.token_ids[: len(result.token_ids)] == result.token_ids


def test_a_loop_left_and_entered_again_misses_no_event(qwen):
    whole = list(qwen.stream(HELLO, temperature=0, max_tokens=25))
    stream = qwen.stream(HELLO, temperature=0, max_tokens=25)
    events = []
    for _ in whole:
        for event in stream:
            events.append(event)
            break
    assert events == whole
    assert next(stream, None) is None


def interrupt(qwen, monkeypatch, *, at):
    """Ctrl-C in the forward of that number."""
    forward, count = qwen.model.forward, iter(range(10**6))

    def interrupted(*args, **kwargs):
        if next(count) == at:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    monkeypatch.setattr(qwen.model, "forward", interrupted)


@pytest.mark.parametrize("prompts", [[[5, 6]], [[5, 6], [7]]])
def test_an_interrupted_answer_keeps_what_was_held_back(qwen, monkeypatch, prompts):
    """It might have become a stop string."""
    free = qwen.generate(prompts, temperature=0, max_tokens=6)
    interrupt(qwen, monkeypatch, at=6)
    stops = [SamplingParams(stop=one.text + "never", temperature=0) for one in free]
    for one, result in zip(free, qwen.generate(prompts, stops), strict=True):
        assert (result.token_ids, result.finish_reason) == (one.token_ids, "interrupted")
        assert result.text == result.content == one.text != ""


def test_ctrl_c_in_a_stream_reaches_the_caller_and_the_next_turn_goes_on(qwen, monkeypatch, forwards):
    whole = qwen.chat(HELLO, temperature=0, max_tokens=12)
    with monkeypatch.context() as patch:
        interrupt(qwen, patch, at=5)
        stream = qwen.stream(HELLO, temperature=0, max_tokens=12)
        with pytest.raises(KeyboardInterrupt):
            list(stream)
        assert stream.result.finish_reason == "interrupted"
        assert stream.result.token_ids == whole.token_ids[:5]
    forwards.clear()
    assert qwen.chat(HELLO, temperature=0, max_tokens=12).token_ids == whole.token_ids
    assert forwards == [1] * 12


def test_ctrl_c_keeps_what_there_is(qwen):
    forward = qwen.model.forward
    count = iter(range(100))

    def interrupted(*args, **kwargs):
        if next(count) == 5:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    qwen.model.forward = interrupted
    try:
        results = qwen.generate(["hello", "you"], temperature=0, max_tokens=50)
    finally:
        del qwen.model.forward
    assert [(len(r.token_ids), r.finish_reason) for r in results] == [(5, "interrupted")] * 2
    again = qwen.generate(["hello", "you"], temperature=0, max_tokens=5)
    assert [r.token_ids for r in again] == [r.token_ids for r in results]


def test_the_cache_grows_by_doubling_up_to_the_context(qwen):
    fresh = pureqwen.qwen.Qwen(qwen.model, context=300)
    fresh.generate([5], temperature=0, max_tokens=255)
    [kept] = fresh._kept
    assert kept.cache.capacity == 256
    fresh.generate([5], temperature=0, max_tokens=280)
    assert kept.cache.capacity == 300


# --- chats


def test_messages_may_be_one_text_or_several_conversations(qwen):
    one = qwen.chat("hello there", temperature=0, max_tokens=8)
    assert one.token_ids == qwen.chat(HELLO, temperature=0, max_tokens=8).token_ids
    two = qwen.chat([HELLO, [{"role": "user", "content": "a"}]], temperature=0, max_tokens=8)
    assert two[0].token_ids == one.token_ids
    assert two[1].token_ids == qwen.chat("a", temperature=0, max_tokens=8).token_ids
    own = qwen.chat([HELLO, HELLO], params=[SamplingParams(max_tokens=2), SamplingParams(max_tokens=5)])
    assert [len(result.token_ids) for result in own] == [2, 5]


def test_a_message_can_be_appended_to_the_conversation(qwen):
    result = qwen.chat(HELLO, temperature=0, max_tokens=8)
    json.dumps(result.message)
    messages = [*HELLO, result.message, {"role": "user", "content": "more"}]
    assert qwen.chat(messages, temperature=0, max_tokens=3).token_ids


def test_without_tokenizer_or_template_only_text_is_an_error(speaking, tmp_path):
    pureqwen.qwen.Qwen(pureqwen.load(speaking[0]).model).save(tmp_path)
    bare = pureqwen.load(tmp_path)
    assert bare.tokenizer is None and bare.template is None
    assert len(bare.generate([5, 6], temperature=0, max_tokens=3).token_ids) == 3
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        bare.generate("hello")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        bare.chat("hello")


def test_tools_and_thinking_are_for_chats(qwen):
    with pytest.raises(ValueError, match="tools and thinking are for chats"):
        qwen.stream("hello", thinking=True)
    for wrong in ("no", 0, 1):
        with pytest.raises(ValueError, match="must be True, False or None"):
            qwen.chat("hello", thinking=wrong)


def test_content_in_text_parts_is_not_dropped(qwen):
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello there"}]}]
    assert qwen.chat(parts, temperature=0, max_tokens=8).token_ids == (
        qwen.chat(HELLO, temperature=0, max_tokens=8).token_ids
    )
    with pytest.raises(ValueError, match="image"):
        qwen.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"content": "x"}], "", 5, [5], [["x"]]])
def test_bad_conversations_are_value_errors(qwen, messages):
    if messages == "":
        assert qwen.chat(messages, temperature=0, max_tokens=2).token_ids
        return
    with pytest.raises(ValueError):
        qwen.chat(messages)
