"""Routes of the server and the fields of its requests: clients depend on them. A new one is added here."""

from typing import Any

import pytest

pytest.importorskip("pydantic")

from pureqwen.config import ServeConfig
from pureqwen.serve.protocol.document import GETS, POSTS, document

SAMPLING = """temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty logit_bias
    seed
    stop stop_token_ids min_tokens ignore_eos"""
BOOKS = "user metadata store service_tier safety_identifier prompt_cache_key"
COUNTED = "model messages system tools tool_choice thinking output_config cache_control"

# route -> the fields of its request
FIELDS = {
    "/v1/chat/completions": f"""model messages tools tool_choice parallel_tool_calls response_format
        max_tokens
        max_completion_tokens n logprobs top_logprobs stream stream_options reasoning_effort enable_thinking
        thinking_budget chat_template_kwargs modalities {SAMPLING} {BOOKS}""",
    "/v1/completions": f"""model prompt max_tokens n logprobs echo response_format stream stream_options
        {SAMPLING} {BOOKS}""",
    "/v1/messages": f"""{COUNTED} max_tokens stop_sequences thread temperature top_p top_k stream metadata
        service_tier""",
    "/v1/messages/count_tokens": COUNTED,
    "/tokenize": "model prompt messages tools enable_thinking return_token_strs",
    "/detokenize": "model tokens",
}
OTHERS = {"/v1/models", "/v1/models/{name}", "/health", "/ready"}
# What an answer has: schema of the document -> its fields, those of objects inside it behind a dot
ANSWERS = {
    "Chat": """id object created model choices choices.index choices.message choices.message.role
        choices.message.content choices.message.reasoning_content choices.message.tool_calls
        choices.message.tool_calls.id choices.message.tool_calls.type choices.message.tool_calls.function
        choices.message.tool_calls.function.name choices.message.tool_calls.function.arguments
        choices.finish_reason usage""",
    "Completion": "id object created model choices choices.index choices.text choices.finish_reason usage",
    "Message": """id type role model content content.type stop_reason stop_sequence usage
        usage.input_tokens usage.output_tokens""",
    "Error": "error error.message error.type error.param error.code",
    "AnthropicError": "type error error.type error.message",
    "Usage": "prompt_tokens completion_tokens total_tokens",
    "Model": "id object created owned_by max_model_len",
    "Tokens": "count max_model_len tokens token_strs",
    "Prompt": "prompt",
    "InputTokens": "input_tokens",
    "Status": "status",
}


def fields_of(schema: dict[str, Any], before: str = "") -> set[str]:
    inner = schema.get("items", schema)
    found = set()
    for name, field in inner.get("properties", {}).items():
        found |= {before + name} | fields_of(field, f"{before}{name}.")
    return found


def test_the_routes_are_the_frozen_ones() -> None:
    assert set(POSTS) == set(FIELDS)
    assert set(GETS) == OTHERS


@pytest.mark.parametrize("path", FIELDS)
def test_the_fields_of_a_request_are_the_frozen_ones(path: str) -> None:
    assert set(POSTS[path][1].model_fields) == set(FIELDS[path].split())


@pytest.mark.parametrize("name", ANSWERS)
def test_the_fields_of_an_answer_are_the_frozen_ones(name: str) -> None:
    assert fields_of(document(ServeConfig())["components"]["schemas"][name]) == set(ANSWERS[name].split())


def test_the_page_of_the_server_names_every_route(root: Any) -> None:
    text = (root / "docs" / "serve.md").read_text()
    assert not [path for path in (*POSTS, "/v1/models", "/health", "/ready", "/metrics") if path not in text]
