"""What a CUDA device does when it records, played by a CPU: a `Tape` keeps the operations of a step with the
tensors that they worked on, and doing them again on the same tensors is what replaying a CUDA graph is.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pureqwen.generate import stepped


class Tape(TorchDispatchMode):
    """The operations of a step with their tensors; `replay` does them again, to the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.done:
            again = func(*args, **kwargs)
            pairs = zip(out, again, strict=True) if isinstance(out, tuple | list) else [(out, again)]
            for old, new in pairs:  # a view lies where it lay; what is new goes to the old address
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """torch.cuda as far as a recording needs it; the tapes that were made."""
    tapes: list[Tape] = []

    @contextmanager
    def record(tape: Tape, *_: Any, **__: Any) -> Iterator[None]:
        tapes.append(tape)
        with tape:
            yield

    def set_sync_debug_mode(mode: Any) -> None:
        """A list of a tensor's values is what has to wait for the device."""

        def refuse(tensor: Tensor) -> Any:
            raise RuntimeError("called a synchronizing CUDA operation")

        monkeypatch.setattr(Tensor, "tolist", refuse if mode == "error" else tolist)

    class Stream:
        def __init__(self, *_: Any) -> None: ...

        def wait_stream(self, other: "Stream") -> None: ...

    tolist = Tensor.tolist
    for name, value in {
        "CUDAGraph": Tape,
        "graph": record,
        "graph_pool_handle": lambda: (0, 0),
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": set_sync_debug_mode,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(stepped, "side_stream", Stream)
    return tapes
