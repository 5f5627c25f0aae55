"""The OpenAPI document: requests by their models, answers by what a client may rely on."""

from collections.abc import Mapping
from typing import Any

from pureqwen import __version__
from pureqwen.config import ServeConfig
from pureqwen.serve.protocol.body import Fields
from pureqwen.serve.protocol.chat import ChatRequest
from pureqwen.serve.protocol.completions import CompletionRequest
from pureqwen.serve.protocol.messages import CountRequest, MessagesRequest
from pureqwen.serve.protocol.tokens import DetokenizeRequest, TokenizeRequest

Schema = dict[str, Any]
REF = "#/components/schemas/{model}"
TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}


def an_object(required: Mapping[str, Any], **others: Any) -> Schema:
    """An object that has at least these fields."""
    return {"type": "object", "required": list(required), "properties": {**required, **others}}


def list_of(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Schema:
    return {"$ref": REF.format(model=name)}


CALL = an_object({"id": TEXT, "type": TEXT, "function": an_object({"name": TEXT, "arguments": TEXT})})
MODEL = an_object({"id": TEXT, "object": TEXT, "created": COUNT, "owned_by": TEXT, "max_model_len": COUNT})
ANSWERS: Mapping[str, Schema] = {
    "Error": an_object(
        {"error": an_object({"message": TEXT, "type": TEXT, "param": or_null(TEXT), "code": or_null(TEXT)})}
    ),
    "AnthropicError": an_object(
        {"type": {"const": "error"}, "error": an_object({"type": TEXT, "message": TEXT})}
    ),
    "Usage": an_object({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT}),
    "Chat": an_object(
        {
            "id": TEXT,
            "object": {"const": "chat.completion"},
            "created": COUNT,
            "model": TEXT,
            "choices": list_of(
                an_object(
                    {
                        "index": COUNT,
                        "message": an_object(
                            {"role": {"const": "assistant"}, "content": or_null(TEXT)},
                            reasoning_content=TEXT,
                            tool_calls=list_of(CALL),
                        ),
                        "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
                    }
                )
            ),
            "usage": ref("Usage"),
        }
    ),
    "Completion": an_object(
        {
            "id": TEXT,
            "object": {"const": "text_completion"},
            "created": COUNT,
            "model": TEXT,
            "choices": list_of(
                an_object({"index": COUNT, "text": TEXT, "finish_reason": {"enum": ["stop", "length"]}})
            ),
            "usage": ref("Usage"),
        }
    ),
    "Message": an_object(
        {
            "id": TEXT,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": TEXT,
            "content": list_of(an_object({"type": {"enum": ["text", "thinking", "tool_use"]}})),
            "stop_reason": {"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
            "stop_sequence": or_null(TEXT),
            "usage": an_object({"input_tokens": COUNT, "output_tokens": COUNT}),
        }
    ),
    "InputTokens": an_object({"input_tokens": COUNT}),
    "Model": MODEL,
    "Models": an_object({"object": TEXT, "data": list_of(ref("Model"))}),
    "Tokens": an_object(
        {"count": COUNT, "max_model_len": COUNT, "tokens": list_of(COUNT)}, token_strs=list_of(TEXT)
    ),
    "Prompt": an_object({"prompt": TEXT}),
    "Status": an_object({"status": TEXT}),
}

# path -> (what it does, its request, its answer, whether it streams)
POSTS: Mapping[str, tuple[str, type[Fields], str, bool]] = {
    "/v1/chat/completions": ("Answer a conversation", ChatRequest, "Chat", True),
    "/v1/completions": ("Continue a text", CompletionRequest, "Completion", True),
    "/v1/messages": ("Answer a conversation, Anthropic's way", MessagesRequest, "Message", True),
    "/v1/messages/count_tokens": ("Count a conversation's tokens", CountRequest, "InputTokens", False),
    "/tokenize": ("Text or messages to ids", TokenizeRequest, "Tokens", False),
    "/detokenize": ("Ids to text", DetokenizeRequest, "Prompt", False),
}
GETS: Mapping[str, tuple[str, str]] = {
    "/v1/models": ("The models there are", "Models"),
    "/v1/models/{name}": ("One model", "Model"),
    "/health": ("Whether the server lives", "Status"),
    "/ready": ("Whether it computes what comes now", "Status"),
}
MISTAKES = {
    "400": "A field is wrong, unsupported or too large; `param` names it.",
    "401": "No API key, or a wrong one.",
    "403": "A web page that may not ask.",
    "404": "No such model.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "421": "A Host that the server does not answer to.",
    "429": "The queue is full; Retry-After says when to come again.",
    "500": "The model step failed.",
    "503": "The server is stopping.",
    "504": "The answer took too long.",
}
CLOSED = ("400", "401", "403", "421")  # what a route without a body may say


def document(config: ServeConfig) -> Schema:
    """The document of one server: it names the model, and the key if one is wanted."""
    schemas: Schema = dict(ANSWERS)
    paths: Schema = {}
    for path, (summary, request, answer, streams) in POSTS.items():
        schema = request.model_json_schema(ref_template=REF)
        schemas |= schema.pop("$defs", {})
        schemas[request.__name__] = schema
        paths[path] = {"post": _post(path, summary, request.__name__, answer, streams)}
    for path, (summary, answer) in GETS.items():
        paths[path] = {"get": _get(path, summary, answer)}
    for path, kind in (("/metrics", "text/plain"), ("/openapi.json", "application/json")):
        content = {kind: {"schema": TEXT if kind == "text/plain" else {"type": "object"}}}
        found = {"200": {"description": "The figures, or this document.", "content": content}}
        paths[path] = {"get": {"summary": path, "responses": found | _mistakes(CLOSED, "Error")}}
    components: Schema = {"schemas": schemas}
    told: Schema = {
        "openapi": "3.1.0",
        "info": {"title": f"pureqwen, serving {config.name}", "version": __version__},
        "paths": paths,
        "components": components,
    }
    if config.api_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        told["security"] = [{"key": []}]
        paths["/health"]["get"]["security"] = []
    return told


def _post(path: str, summary: str, request: str, answer: str, streams: bool) -> Schema:
    content: Schema = {"application/json": {"schema": ref(answer)}}
    if streams:
        content["text/event-stream"] = {"schema": {"description": "Server-sent events."}}
    error = "AnthropicError" if path.startswith("/v1/messages") else "Error"
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref(request)}}},
        "responses": {"200": {"description": "The answer.", "content": content}} | _mistakes(MISTAKES, error),
    }


def _get(path: str, summary: str, answer: str) -> Schema:
    said = {"200": {"description": "The answer.", "content": {"application/json": {"schema": ref(answer)}}}}
    operation: Schema = {"summary": summary, "responses": said | _mistakes((*CLOSED, "404"), "Error")}
    if "{name}" in path:
        operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": TEXT}]
    if path in ("/health", "/ready"):
        answered = {"application/json": {"schema": ref(answer)}}
        operation["responses"]["503"] = {"description": "No.", "content": answered}
    return operation


def _mistakes(statuses: Any, error: str) -> Schema:
    content = {"application/json": {"schema": ref(error)}}
    return {status: {"description": MISTAKES[status], "content": content} for status in statuses}
