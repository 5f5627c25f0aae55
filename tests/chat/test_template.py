"""Templates: byte-equal text, equal ids, the modes of thinking, and what a template is read from."""

import json
import re

import pytest

from pureqwen.chat import ChatTemplate, TemplateError, thinking_mode
from pureqwen.tokenizer import Tokenizer

NAMES = ("hybrid", "instruct_2507", "thinking_2507", "coder")
USER = [{"role": "user", "content": "Hi"}]
# Where a message holds control strings, transformers lets them become control tokens, and we don't.
INJECTING = ("special_text", "user_tool_response_like", "tool_response_unicode_multiline")


@pytest.fixture(scope="module")
def tokenizer(qwen_tokenizer_folder):
    return Tokenizer.from_pretrained(qwen_tokenizer_folder)


@pytest.fixture(scope="module")
def template(chat_template_source):
    made = {}

    def get(name):
        if name not in made:
            made[name] = ChatTemplate(chat_template_source(name))
        return made[name]

    return get


def golden_cases(golden, name):
    cases = [case for case in golden("chat_template") if case["template"] == f"{name}.jinja"]
    assert len(cases) >= 40
    return cases


@pytest.mark.parametrize("name", NAMES)
def test_rendering_differs_from_transformers(name, template, golden):
    for case in golden_cases(golden, name):
        if case["error"]:
            with pytest.raises(TemplateError) as error:
                template(name).render(case["messages"], case["tools"], **case["kwargs"])
            assert case["error"].split(": ", 1)[1] in str(error.value)
        else:
            text = template(name).render(case["messages"], case["tools"], **case["kwargs"])
            assert text == case["rendered"], case["id"]


@pytest.mark.parametrize("name", NAMES)
def test_ids_differ_from_transformers(name, template, golden, tokenizer):
    seen = 0
    for case in golden_cases(golden, name):
        if not case["error"] and not case["id"].endswith(INJECTING):
            ids = template(name).encode(tokenizer, case["messages"], case["tools"], **case["kwargs"])
            assert ids == case["token_ids"], case["id"]
            seen += 1
    assert seen >= 37


@pytest.mark.parametrize("name", NAMES)
def test_a_user_who_types_im_end_or_think_creates_control_tokens(name, template, golden, tokenizer):
    controls = set(tokenizer.special_ids.values())
    cases = [case for case in golden_cases(golden, name) if case["id"].endswith(INJECTING)]
    assert len(cases) >= 2
    for case in cases:
        ids = template(name).encode(tokenizer, case["messages"], case["tools"], **case["kwargs"])
        assert tokenizer.decode(ids) == case["rendered"]
        ours = sum(id in controls for id in ids)
        harmless = [
            {**m, "content": m["content"].replace("<", "(")} for m in case["messages"] if m["content"]
        ]
        if len(harmless) == len(case["messages"]):
            plain = template(name).encode(tokenizer, harmless, case["tools"], **case["kwargs"])
            assert ours == sum(id in controls for id in plain)
        assert ours < sum(id in controls for id in case["token_ids"])


def test_trls_templates_are_the_checkpoints_own(trl_template, reference):
    for name in ("hybrid", "instruct_2507", "thinking_2507"):
        assert trl_template(name) == (reference / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "thinking", "default", "style"),
    [
        ("hybrid", "hybrid", True, "hermes"),
        ("instruct_2507", "never", False, "hermes"),
        ("thinking_2507", "always", True, "hermes"),
        ("coder", "never", False, "coder"),
    ],
)
def test_thinking_and_tool_style_are_found_in_the_template(name, thinking, default, style, template):
    found = template(name)
    assert (found.thinking, found.thinks_by_default, found.tool_style) == (thinking, default, style)


def test_asking_for_thinking_that_the_model_has_not_is_ignored(template):
    with pytest.raises(ValueError, match="sibling Thinking-2507"):
        template("instruct_2507").check_thinking(True)
    with pytest.raises(ValueError, match="sibling Instruct-2507"):
        template("thinking_2507").check_thinking(False)
    for name, fine in (("hybrid", (None, True, False)), ("instruct_2507", (None, False))):
        for thinking in fine:
            template(name).check_thinking(thinking)
    template("thinking_2507").check_thinking(True)


@pytest.mark.parametrize(
    ("texts", "thinking", "expected"),
    [
        (["hello"], None, True),
        (["hello"], False, False),
        (["hello /no_think"], None, False),
        (["hello /no_think"], True, False),
        (["/no_think", "and now /think"], None, True),
        (["/think", "and now /no_think."], None, False),
        (["/no_think", "and now"], None, False),
        (["/think"], False, False),
        (["see https://a.b/no_think", "a/no_think", "/no_thinking"], None, True),
    ],
)
def test_sampling_mode_does_not_follow_the_last_switch(texts, thinking, expected, template):
    messages = [{"role": "user", "content": text} for text in texts]
    assert thinking_mode(messages, thinking, template("hybrid")) is expected
    parts = [{"role": "system", "content": [{"type": "text", "text": text}]} for text in texts]
    assert thinking_mode(parts, thinking, template("hybrid")) is expected


def test_switches_do_nothing_to_models_that_cannot_switch(template):
    messages = [{"role": "user", "content": "/no_think"}]
    assert thinking_mode(messages, None, template("thinking_2507")) is True
    assert thinking_mode([{"role": "user", "content": "/think"}], None, template("instruct_2507")) is False
    assistant = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "/no_think"}]
    assert thinking_mode(assistant, None, template("hybrid")) is True


def test_splitter_does_not_start_inside_the_thought_that_the_prompt_opens(template, tokenizer):
    def inside(name, messages, **settings):
        return template(name).prompt_inside(tokenizer, template(name).encode(tokenizer, messages, **settings))

    assert inside("thinking_2507", USER)
    assert not inside("hybrid", USER)
    assert not inside("hybrid", USER, enable_thinking=False)
    assert not inside("hybrid", [{"role": "user", "content": "<think>"}])
    unfinished = [*USER, {"role": "assistant", "content": "<think>\nhm, <tool_call>"}]
    assert not inside("hybrid", [*unfinished, *USER])
    assert inside("instruct_2507", unfinished, add_generation_prompt=False, continue_final_message=True)
    finished = [*USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSo"}]
    assert not inside("instruct_2507", finished, add_generation_prompt=False, continue_final_message=True)


@pytest.mark.parametrize(
    "name", ["messages", "add_generation_prompt_", "bos_token", "raise_exception", "loop", "_x"]
)
def test_template_variables_override_internals(name, template):
    with pytest.raises((ValueError, TypeError), match=name):
        template("hybrid").render(USER, **{name: []})


@pytest.mark.parametrize("method", ["render", "encode"])
def test_variables_of_the_templates_own_are_overridden(method, template, tokenizer):
    first = (tokenizer,) if method == "encode" else ()
    call = getattr(template("hybrid"), method)
    with pytest.raises(ValueError, match="'ns' can't be set: the template computes it"):
        call(*first, USER, ns=1)
    with pytest.raises(ValueError, match="'tokenize' can't be set"):
        call(*first, USER, tokenize=False)
    with pytest.raises(ValueError, match="no variable 'enable_thinkin'; it reads: enable_thinking"):
        call(*first, USER, enable_thinkin=False)


def test_variables_reach_the_template_as_plain_data():
    template = ChatTemplate("{{ style.name }}|{{ eos_token }}|{{ bos_token is defined }}", eos_token="<e>")
    assert template.render(USER, style={"name": "x"}) == "x|<e>|False"
    with pytest.raises(ValueError, match="the variable style holds a object"):
        template.render(USER, style={"name": object()})


def test_a_templates_own_exception_is_a_value_error_with_its_message():
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError, match=r"^roles must alternate$"):
        template.render(USER)
    assert issubclass(TemplateError, ValueError)
    assert template.thinking == "never"


def test_an_invalid_template_is_refused_with_its_line_and_its_file(tmp_path):
    with pytest.raises(TemplateError, match=r"^the chat template is not valid in line 2"):
        ChatTemplate("a\n{{ b")
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": "a\n{{ b"}))
    with pytest.raises(TemplateError, match=rf"^{re.escape(str(settings))}: the chat template is .* line 2"):
        ChatTemplate.from_pretrained(tmp_path)
    file = tmp_path / "chat_template.jinja"
    file.write_text("{% import 'x' as y %}")
    with pytest.raises(
        TemplateError, match=rf"^{re.escape(str(file))}: the chat template uses import in line 1"
    ):
        ChatTemplate.from_pretrained(tmp_path)


def test_continuing_excludes_a_generation_prompt_and_needs_a_message(template):
    with pytest.raises(ValueError, match="set only one"):
        template("hybrid").render(USER, continue_final_message=True)
    with pytest.raises(ValueError, match="no 'reasoning_content' to continue"):
        template("hybrid").render(
            USER, add_generation_prompt=False, continue_final_message="reasoning_content"
        )
    with pytest.raises(ValueError, match="leaves out the last message"):
        ChatTemplate("{# content #}x").render(USER, add_generation_prompt=False, continue_final_message=True)


def test_from_pretrained_prefers_the_file_and_saves_what_it_read(tmp_path):
    assert ChatTemplate.from_pretrained(tmp_path) is None
    config = {"eos_token": {"content": "<e>"}, "bos_token": None, "chat_template": "config {{ eos_token }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert ChatTemplate.from_pretrained(tmp_path).render(USER) == "config <e>"
    ChatTemplate("file {{ eos_token }}").save(tmp_path)
    assert ChatTemplate.from_pretrained(tmp_path).render(USER) == "file <e>"
    assert ChatTemplate.from_pretrained(tmp_path).source == "file {{ eos_token }}"


def test_of_several_named_templates_the_default_is_taken(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    path.write_text(json.dumps({"chat_template": named}))
    assert ChatTemplate.from_pretrained(tmp_path).source == "plain"
    path.write_text(
        json.dumps({"chat_template": [{"name": "a", "template": "1"}, {"name": "b", "template": "2"}]})
    )
    with pytest.raises(ValueError, match="none called 'default'"):
        ChatTemplate.from_pretrained(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        ChatTemplate.from_pretrained(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        ChatTemplate.from_pretrained(tmp_path)
