"""Compiled blocks: the same numbers and names, one graph for all layers, and nothing left behind."""

from typing import Any

import pytest
import torch
from peers import tiny
from torch._dynamo.testing import CompileCounter

from pureqwen import Qwen3
from pureqwen.rewrite import compiled_blocks, eager

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles


def graphs(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts what torch.compile is given, and runs it as it is: no compiler is needed."""
    torch._dynamo.reset()
    counter, compile_it = CompileCounter(), torch.compile

    def counted(*args: Any, **kwargs: Any) -> Any:
        return compile_it(*args, **{**kwargs, "backend": counter})

    monkeypatch.setattr(torch, "compile", counted)
    return counter


def test_one_graph_serves_all_layers_and_names_and_numbers_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ids = Qwen3(tiny()), torch.arange(12)
    expected, names = model(ids), list(model.state_dict())
    counter = graphs(monkeypatch)
    with compiled_blocks(model):
        assert torch.equal(model(ids), expected)
        assert list(model.state_dict()) == names
    assert counter.frame_count == 1


def test_afterwards_and_for_other_shapes_it_runs_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Qwen3(tiny())
    counter = graphs(monkeypatch)
    with compiled_blocks(model):
        model(torch.arange(8))
        with eager(model):
            model(torch.arange(5))
    model(torch.arange(6))
    assert counter.frame_count == 1


def test_a_failure_inside_leaves_the_model_as_it_was() -> None:
    model = Qwen3(tiny())
    with pytest.raises(KeyError), compiled_blocks(model):
        raise KeyError("the caller's own")
    assert all(block._compiled_call_impl is None for block in model.model.layers)


def test_without_a_compiler_the_error_says_what_to_install() -> None:
    model = Qwen3(tiny())
    with pytest.raises(ValueError, match=r"g\+\+"), compiled_blocks(model):
        raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: no C++ compiler found")
