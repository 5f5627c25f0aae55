"""The worker of pureqwen: the package as a user loads it, or with its native code switched off.

    python -m benchmarks.peers.run_pureqwen FOLDER [--dtype auto] [--plain]

Rows go through the same loop as `qwen.generate`, paused between two tokens.
"""

import argparse
from collections.abc import Iterator
from typing import Any

from benchmarks.peers.worker import main

ROOM = 256  # tokens that may follow a cache that was filled
OFF = "switched off, to measure PyTorch alone"


class Pureqwen:
    def __init__(self, options: argparse.Namespace) -> None:
        import pureqwen

        load = pureqwen.load  # brings torch, as for whoever begins with this name
        import torch

        from pureqwen import kernels

        torch.set_num_threads(options.threads)
        if options.plain:
            kernels.native = lambda: OFF  # type: ignore[assignment]
        self.options, self.torch, self.pureqwen, self.load_model = options, torch, pureqwen, load
        self.steps: Iterator[Any] = iter(())
        self.batch = 0

    def load(self) -> dict[str, Any]:
        from pureqwen import kernels

        self.qwen = self.load_model(self.options.folder, dtype=self.options.dtype, device="cpu")
        native = kernels.native() or "used"
        versions = {"pureqwen": self.pureqwen.__version__, "torch": self.torch.__version__}
        if not self.options.plain:
            versions["pureqwen's native code"] = native
        return {"dtype": str(self.qwen.dtype).removeprefix("torch."), "versions": versions}

    def prefill(self, prompts: list[list[int]]) -> None:
        self.steps = iter(())  # the last texts' cache goes
        rows = [self.row(ids) for ids in prompts]
        self.begin(rows, self.qwen._decode(rows))
        self.step()
        self.check()

    def step(self) -> None:
        for _ in range(self.batch):
            next(self.steps)

    def fill(self, ids: list[int]) -> None:
        """Random keys and values for all ids but the last: how long a step takes does not depend on them."""
        from pureqwen.evaluate.speed import filled_cache
        from pureqwen.generate import decode

        row = self.row(ids)
        cache = filled_cache(self.qwen, batch=1, cached=len(ids) - 1, limit=len(ids) + ROOM)
        row.reuse(len(ids) - 1)
        self.begin([row], decode([row], self.qwen._logits(cache, [row])))
        self.step()

    def row(self, ids: list[int]) -> Any:
        params = self.pureqwen.SamplingParams(temperature=0, ignore_eos=True)
        return self.qwen.intake.text(ids, params)

    def begin(self, rows: list[Any], steps: Iterator[Any]) -> None:
        self.steps, self.batch = steps, len(rows)

    def check(self) -> None:
        """That `plain` is what it says."""
        loaded = [path for path in self.torch.ops.loaded_libraries if "pureqwen" in str(path)]
        assert not (self.options.plain and loaded), f"native code is in use: {loaded}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    main(lambda: Pureqwen(given))
