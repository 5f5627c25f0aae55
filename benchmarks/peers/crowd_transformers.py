"""The worker of transformers for a crowd: its continuous batching (`model.generate_batch` in a thread).

    python -m benchmarks.peers.crowd_transformers FOLDER --dtype bfloat16

SDPA attention over pages, as many pages as the crowd fills; without sharing of prefixes, as prompts are.
"""

import argparse
import time
from typing import Any

from benchmarks.peers.run_transformers import Transformers
from benchmarks.peers.worker import main

PAGE, STEP = 16, 512  # tokens of a page, and the most of a step: what pureqwen takes too
POOL = 16 * 1024  # tokens
PATIENCE = 600.0  # seconds without a token


class CrowdOfTransformers(Transformers):
    def load(self) -> dict[str, Any]:
        facts = super().load()
        from transformers import ContinuousBatchingConfig, GenerationConfig

        self.model.set_attn_implementation("sdpa")
        asked = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1)
        pages = ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=POOL // PAGE, max_batch_tokens=STEP, allow_block_sharing=False
        )
        self.manager = self.model.init_continuous_batching(
            generation_config=asked, continuous_batching_config=pages
        )
        self.manager.start()
        return facts

    def crowd(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        """When each token of each answer was there, in seconds."""
        waiting, numbers = list(enumerate(requests)), dict[str, int]()
        times: list[list[float]] = [[] for _ in requests]
        left, began = len(requests), time.perf_counter()
        last = began
        while left:
            while waiting and waiting[0][1]["at"] <= time.perf_counter() - began:
                number, request = waiting.pop(0)
                name = self.manager.add_request(
                    request["prompt"], max_new_tokens=request["tokens"], streaming=True
                )
                numbers[name] = number
            pause = max(0.001, began + waiting[0][1]["at"] - time.perf_counter()) if waiting else 1.0
            found = self.manager.get_result(timeout=min(pause, 1.0))
            now = time.perf_counter()
            if found is None:
                if now - last > PATIENCE or not self.manager.is_running():
                    raise RuntimeError("continuous batching has stopped")
                continue
            if found.error:
                raise RuntimeError(found.error)
            last, mine = now, times[numbers[found.request_id]]
            mine += [now - began] * (len(found.generated_tokens) - len(mine))
            left -= found.is_finished()
        return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    main(lambda: CrowdOfTransformers(given))
