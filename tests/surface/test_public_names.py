"""Names and signatures that others build on. Adding one is fine (add it here); changing one breaks them."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable

import pytest

import pureqwen

NAMES = {
    "ChatTemplate",
    "Engine",
    "EngineConfig",
    "ModelConfig",
    "Qwen",
    "Qwen3",
    "Reply",
    "Result",
    "SamplingParams",
    "Timings",
    "Tokenizer",
    "ToolCall",
    "TrainConfig",
    "Usage",
    "__version__",
    "load",
    "parse_tool_calls",
    "split_reasoning",
    "train",
}

EMPTY = inspect.Parameter.empty

# name -> (positional or keyword, keyword-only, takes **fields); with the default of each
SIGNATURES: dict[str, tuple[dict[str, object], dict[str, object], bool]] = {
    "load": (
        {"model": "pocket"},
        {"dtype": "auto", "device": None, "revision": None, "context": None},
        False,
    ),
    "Qwen.generate": (
        {"prompt_or_prompts": EMPTY, "params": None},
        {"constraint": None, "prompt_logprobs": None},
        True,
    ),
    "Qwen.chat": (
        {"messages": EMPTY, "tools": None, "thinking": None, "params": None},
        {"constraint": None},
        True,
    ),
    "Qwen.stream": (
        {"prompt_or_messages": EMPTY, "tools": None, "thinking": None, "params": None},
        {"constraint": None},
        True,
    ),
    "Qwen3": ({"config": EMPTY}, {}, False),
    "Qwen3.forward": ({"ids": EMPTY, "positions": None, "attends": None, "keep": None}, {}, False),
    "ChatTemplate": ({"source": EMPTY}, {}, False),
    "Qwen.compile": ({}, {}, False),
    "Qwen.save": ({"folder": EMPTY}, {}, False),
    "ModelConfig.from_dict": ({"config": EMPTY}, {}, False),
    "ModelConfig.from_pretrained": ({"folder_or_hub_id": EMPTY}, {"revision": None}, False),
    "ModelConfig.preset": ({"name": EMPTY}, {}, False),
    "Tokenizer.from_pretrained": ({"folder": EMPTY}, {}, False),
    "Tokenizer.encode": ({"text": EMPTY, "allow_special": False}, {}, False),
    "Tokenizer.decode": ({"ids": EMPTY, "skip_special_tokens": False}, {}, False),
    "Tokenizer.stream": ({}, {}, False),
    "ChatTemplate.render": (
        {"messages": EMPTY, "tools": None, "add_generation_prompt": True, "continue_final_message": False},
        {},
        True,
    ),
    "ChatTemplate.encode": (
        {
            "tokenizer": EMPTY,
            "messages": EMPTY,
            "tools": None,
            "add_generation_prompt": True,
            "continue_final_message": False,
        },
        {},
        True,
    ),
    "split_reasoning": ({"text": EMPTY, "inside": False, "enabled": True}, {}, False),
    "parse_tool_calls": ({"text": EMPTY, "style": "hermes", "tools": None}, {}, False),
}


def look_up(path: str) -> Callable[..., object]:
    found: object = pureqwen
    for part in path.split("."):
        found = getattr(found, part)
    assert callable(found)
    return found


def test_the_exported_names_are_the_frozen_ones() -> None:
    assert set(pureqwen.__all__) == NAMES
    assert {name for name in dir(pureqwen) if name in NAMES} == NAMES
    assert all(getattr(pureqwen, name) is not None for name in NAMES)


def test_train_the_function_is_not_hidden_by_train_the_folder() -> None:
    """A folder that is imported becomes an attribute of the package, in the place of the lazy name."""
    for _ in range(2):  # the first look imports the folder, the second finds it
        assert callable(pureqwen.train)
        assert list(inspect.signature(pureqwen.train).parameters)[1] == "data"
    assert inspect.ismodule(importlib.import_module("pureqwen.train"))
    assert callable(pureqwen.train)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Qwen4"):
        pureqwen.Qwen4  # noqa: B018


@pytest.mark.parametrize("path", SIGNATURES)
def test_the_frozen_signatures_are_unchanged(path: str) -> None:
    plain, keyword, fields = SIGNATURES[path]
    parameters = list(inspect.signature(look_up(path)).parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    either = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    only = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert either == plain and [*either] == [*plain]
    assert {name: only[name] for name in keyword if name in only} == keyword
    assert not [name for name, default in only.items() if default is EMPTY]
    assert any(p.kind is p.VAR_KEYWORD for p in parameters) == fields


def test_results_have_the_frozen_fields() -> None:
    fields = {field.name for field in dataclasses.fields(pureqwen.Result)}
    wanted = "text reasoning content tool_calls token_ids finish_reason logprobs usage timings"
    assert set(wanted.split()) <= fields | set(dir(pureqwen.Result))
    assert {"name", "arguments"} <= {field.name for field in dataclasses.fields(pureqwen.ToolCall)}


def test_a_sampling_parameter_keeps_its_name() -> None:
    fields = {field.name for field in dataclasses.fields(pureqwen.SamplingParams)}
    wanted = """temperature top_k top_p min_p repetition_penalty presence_penalty frequency_penalty logit_bias
        seed max_tokens min_tokens stop stop_token_ids ignore_eos logprobs top_logprobs thinking_budget"""
    assert set(wanted.split()) <= fields


def test_the_loaded_object_has_its_attributes() -> None:
    qwen = pureqwen.load()
    for name in ("model", "config", "tokenizer", "template", "defaults"):
        assert getattr(qwen, name) is not None, name


def test_a_stream_of_text_can_be_pushed_and_finished() -> None:
    stream = pureqwen.load().tokenizer.stream()
    assert stream.push(0) + stream.finish() == pureqwen.load().tokenizer.decode([0])
