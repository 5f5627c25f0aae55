"""Templates against transformers itself, on Qwen templates that the golden file does not have."""

import pytest

from pureqwen.chat import ChatTemplate

NAMES = ("qwen3_training", "qwen3_instruct_2507_training", "qwen3_5_think", "qwen3_vl", "qwen2_5", "glm4moe")
CONTINUE = (
    {},
    {"continue_final_message": True, "add_generation_prompt": False},
    {"continue_final_message": "reasoning_content", "add_generation_prompt": False},
)


@pytest.mark.parametrize("name", NAMES)
def test_other_templates_render_otherwise_than_in_transformers(name, trl_template, golden):
    theirs = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    source = trl_template(name)
    ours = ChatTemplate(source, eos_token="<|im_end|>")
    rendered = 0
    for case in golden("chat_template"):
        # apply_chat_template does this before it calls the function that is compared here
        messages = [{key: v for key, v in message.items() if v is not None} for message in case["messages"]]
        for change in CONTINUE:
            settings = {**case["kwargs"], **change}
            try:
                expected = theirs(
                    [messages], tools=case["tools"], chat_template=source, eos_token="<|im_end|>", **settings
                )[0][0]
            except Exception:
                with pytest.raises(ValueError):
                    ours.render(case["messages"], case["tools"], **settings)
            else:
                assert ours.render(case["messages"], case["tools"], **settings) == expected, case["id"]
                rendered += 1
    assert rendered > 250
