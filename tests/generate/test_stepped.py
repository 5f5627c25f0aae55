"""Compiled and recorded steps: the logits of the others, few graphs, recordings that hold.

What a CUDA device does is played by a CPU (tests/tapes.py).
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peers import MOE, build, tiny
from tapes import Tape, device
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from pureqwen import Qwen, Qwen3, SamplingParams
from pureqwen.cache import StaticAttend, StaticCache
from pureqwen.generate import Cached, Stepped
from pureqwen.generate.stepped import Recorded, runs_alone
from pureqwen.rewrite import compile_blocks, fuse, is_compiled

__all__ = ["device"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles

LENGTH = 600  # tokens of a row, beyond two growths of its cache
CHUNKS = {0: 5, 7: 3, 20: 230, 21: 60, 35: 64, 36: 1}  # step -> tokens of a prompt; the others make one token


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts what torch.compile is given, and runs it as it is: no compiler is needed."""
    torch._dynamo.reset()
    counter, compile_it = CompileCounter(), torch.compile

    def counted(*args: Any, **kwargs: Any) -> Any:
        return compile_it(*args, **{**kwargs, "backend": counter})

    monkeypatch.setattr(torch, "compile", counted)
    return counter


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


def logits_of(compiled: Stepped, text: Tensor, steps: int) -> Iterator[tuple[int, Tensor]]:
    """Text (B, LENGTH) through `steps` steps of CHUNKS: the positions computed so far, the logits (B, V)."""
    done = 0
    for step in range(steps):
        now = CHUNKS.get(step, 1)
        pieces = text[:, done : done + now].tolist()
        yield done + now, compiled.forward([done] * len(text), pieces, [1] * len(text))
        done += now


def assert_equal_to_the_plain_forward(compiled: Stepped, model: Qwen3, text: Tensor, steps: int) -> None:
    full = model(text)
    for end, logits in logits_of(compiled, text, steps):
        assert (logits - full[:, end - 1]).abs().max() <= 2e-5 * full.abs().max(), end


@torch.inference_mode()
def test_fifty_mixed_steps_of_a_growing_cache_compile_to_one_graph(counter: CompileCounter) -> None:
    config = tiny(max_position_embeddings=1024)
    model, plain = build(config), build(config)
    compile_blocks(model)
    text = torch.randint(0, 256, (1, LENGTH))
    cache = StaticCache(config, limit=LENGTH)
    assert_equal_to_the_plain_forward(Stepped(model, cache, [None]), plain, text, 50)  # type: ignore[list-item]
    assert cache.capacity == 512
    assert counter.frame_count == 1


def test_rows_that_finish_one_by_one_build_at_most_three_graphs(counter: CompileCounter) -> None:
    """As many as there are rows; fewer; the last one, since torch takes a dimension of 1 for a constant."""
    qwen = Qwen(build(tiny()))
    prompts = [[3, n, 17] for n in range(5)]
    limits = [greedy(8 + 8 * n) for n in range(5)]
    expected = [r.token_ids for r in qwen.generate(prompts, limits)]
    qwen.compile()
    assert [r.token_ids for r in qwen.generate(prompts, limits)] == expected
    assert counter.frame_count <= 3


def test_experts_run_as_they_are_written_and_the_rest_of_their_block_compiled(
    counter: CompileCounter,
) -> None:
    qwen = Qwen(build(tiny(**MOE)))
    expected = qwen.generate([3, 17], greedy(80)).token_ids
    qwen.compile()
    assert qwen.generate([3, 17], greedy(80)).token_ids == expected
    graphs = counter.frame_count
    assert 1 <= graphs <= 4  # before the router, the router, behind the experts, and what is added
    qwen.generate([5, 5, 5], greedy(150))
    assert counter.frame_count == graphs


def test_prompts_and_what_is_saved_stay_as_they_were(counter: CompileCounter) -> None:
    qwen = Qwen(build(tiny()))
    names = list(qwen.model.state_dict())
    qwen.compile()
    qwen.generate([3, 17, 4], greedy(1))  # a prompt, and no step behind it
    assert counter.frame_count == 0
    assert list(qwen.model.state_dict()) == names


def test_where_a_step_is_native_nothing_is_compiled_and_that_is_said(counter: CompileCounter) -> None:
    model = build(tiny(head_dim=32))
    expected = Qwen(model).generate([3, 17, 4], greedy(8)).token_ids
    qwen = Qwen(fuse(model))
    with pytest.warns(UserWarning, match="nothing is compiled: a step is native code"):
        qwen.compile()
    assert qwen.generate([3, 17, 4], greedy(8)).token_ids == expected
    assert counter.frame_count == 0 and not is_compiled(qwen.model)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: no C++ compiler found")

    qwen = Qwen(build(tiny()))
    qwen.compile()
    monkeypatch.setattr(type(qwen.model.model.layers[0]), "__call__", broken)
    with pytest.raises(ValueError, match=r"g\+\+"):
        qwen.generate([3], greedy(2))


def recording(model: Qwen3, *, batch: int, limit: int) -> Stepped:
    cache = StaticCache(model.config, batch=batch, limit=limit)
    compiled = Stepped(model, cache, [None] * batch)  # type: ignore[list-item]
    compiled.kind = Recorded
    return compiled


@pytest.mark.parametrize("head_dim", [16, 32])  # with 32 a CPU attends in native code, where it has it
@torch.inference_mode()
def test_a_recorded_step_gives_the_logits_of_the_plain_forward_also_after_growth(
    head_dim: int, device: list[Tape]
) -> None:
    """A recording that kept a position, a mask or the keys of a smaller cache would go wrong here."""
    model = build(tiny(max_position_embeddings=1024, head_dim=head_dim))
    text = torch.randint(0, 256, (2, LENGTH))
    compiled = recording(model, batch=2, limit=LENGTH)
    assert_equal_to_the_plain_forward(compiled, model, text, 50)
    assert compiled.cache.capacity == 512
    assert sum(tape.replays for tape in device) >= 40
    assert len(device) == 2  # of 256 slots and of 512; prompts in between leave them be


@torch.inference_mode()
def test_one_recording_serves_until_the_slots_double(device: list[Tape]) -> None:
    model = build(tiny(max_position_embeddings=1024))
    text = torch.randint(0, 256, (1, 300))
    full = model(text)
    compiled = recording(model, batch=1, limit=1000)
    compiled.forward([0], text[:, :200].tolist(), [1])
    for n in range(200, 300):
        logits = compiled.forward([n], text[:, n : n + 1].tolist(), [1])
        assert (logits - full[:, n]).abs().max() <= 2e-5 * full.abs().max()
    assert [tape.replays for tape in device] == [54, 42]  # to 256 slots, then to 512


@torch.inference_mode()
def test_a_row_that_leaves_is_seen_by_the_recording(device: list[Tape]) -> None:
    model = build(tiny())
    text = torch.randint(0, 256, (2, 20))
    full = model(text)
    compiled = recording(model, batch=2, limit=64)
    compiled.forward([0, 0], text[:, :10].tolist(), [1, 1])
    for n in range(10, 14):
        compiled.forward([n, n], text[:, n : n + 1].tolist(), [1, 1])
    compiled.forget()
    assert compiled.step is None  # the cache of both rows goes before that of one is made
    compiled.cache.select([1])
    for n in range(14, 18):
        logits = compiled.forward([n], text[1:, n : n + 1].tolist(), [1])
        assert (logits - full[1:, n]).abs().max() <= 2e-5 * full.abs().max()
    assert len(device) == 2


@torch.inference_mode()
def test_a_step_that_waits_for_the_device_is_not_recorded(device: list[Tape]) -> None:
    model = build(tiny(**MOE))
    text = torch.randint(0, 256, (1, 20))
    full = model(text)
    compiled = recording(model, batch=1, limit=64)
    compiled.forward([0], text[:, :10].tolist(), [1])
    for n in range(10, 20):
        logits = compiled.forward([n], [[int(text[0, n])]], [1])
        assert (logits - full[:, n]).abs().max() <= 2e-5 * full.abs().max()
    assert not device


@torch.inference_mode()
def test_a_short_answer_is_over_before_anything_is_recorded(device: list[Tape]) -> None:
    model = build(tiny())
    text = torch.randint(0, 256, (1, 20))
    compiled = recording(model, batch=1, limit=64)
    compiled.forward([0], text[:, :10].tolist(), [1])
    for n in range(10, 12):
        compiled.forward([n], text[:, n : n + 1].tolist(), [1])
    assert not device
    compiled.forward([12], text[:, 12:13].tolist(), [1])
    assert len(device) == 1


@torch.inference_mode()
def test_a_recording_writes_to_nothing_that_a_draft_in_between_could_free(device: list[Tape]) -> None:
    """All that it writes to was made in it, or is held by the step or the cache."""
    model = build(tiny(head_dim=32))
    text = torch.randint(0, 256, (1, 40))
    full = model(text)
    compiled = recording(model, batch=1, limit=64)
    compiled.forward([0], text[:, :10].tolist(), [1])
    for n in range(10, 16):
        compiled.forward([n], text[:, n : n + 1].tolist(), [1])
    [tape] = device
    made = {
        id(tensor)
        for _, args, _, out in tape.done
        for tensor in tensors(out)
        if not (args and tensor is args[0])  # written in place
    }
    kept = {tensor.data_ptr() for tensor in (*compiled.step.held, compiled.step.inputs)}  # type: ignore[union-attr]
    written = [args[0] for func, args, *_ in tape.done if func is torch.ops.aten.copy_.default]
    assert all(id(tensor) in made or tensor.data_ptr() in kept for tensor in written)
    compiled.forward([16], text[:, 16:20].tolist(), [4])
    logits = compiled.forward([20], text[:, 20:21].tolist(), [1])
    assert (logits - full[:, 20]).abs().max() <= 2e-5 * full.abs().max()
    assert len(device) == 1


def tensors(out: Any) -> list[Tensor]:
    found = out if isinstance(out, tuple | list) else [out]
    return [tensor for tensor in found if isinstance(tensor, Tensor)]


@torch.inference_mode()
def test_where_there_is_no_room_to_record_the_step_is_computed_as_before(
    device: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny())
    text = torch.randint(0, 256, (1, 20))
    full = model(text)
    compiled = recording(model, batch=1, limit=64)

    def full_up(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch.cuda, "graph", full_up)
    compiled.forward([0], text[:, :10].tolist(), [1])
    for n in range(10, 20):
        logits = compiled.forward([n], text[:, n : n + 1].tolist(), [1])
        assert (logits - full[:, n]).abs().max() <= 2e-5 * full.abs().max()
    assert not device


def test_on_cuda_steps_are_recorded_unless_somebody_wants_to_see_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    qwen = Qwen(build(tiny()))
    cache = StaticCache(qwen.config, limit=64)
    assert type(qwen._logits(cache, [])) is Cached
    monkeypatch.setattr(Qwen, "device", torch.device("cuda"))
    assert type(qwen._logits(cache, [])) is Stepped
    hook = qwen.model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert type(qwen._logits(cache, [])) is Cached
    hook.remove()
    assert type(qwen._logits(cache, [])) is Stepped
    qwen.attends = lambda: [StaticAttend() for _ in range(qwen.config.num_hidden_layers)]
    assert type(qwen._logits(cache, [])) is Cached


def test_another_error_of_a_step_is_not_taken_for_waiting(device: list[Tape]) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        runs_alone(broken)
