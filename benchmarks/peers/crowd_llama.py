"""The worker of llama.cpp for a crowd, where its server is not built: the server's loop over its C functions.

    python -m benchmarks.peers.crowd_llama FILE.gguf

As llama-server does it: a slot for each request, in each call the next token of every slot that writes, and
what is left of the call for prompts, in their order. Neither HTTP nor sampling beyond the likeliest token.
"""

import argparse
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.run_llama import CALL, Llama
from benchmarks.peers.worker import main

SLOTS = 32


@dataclass
class Slot:
    """Where a request is computed: `done` of its prompt's tokens, then the answer's."""

    number: int
    prompt: list[int]
    tokens: int
    times: list[float]
    done: int = 0
    next: int = 0


class CrowdOfLlama(Llama):
    def crowd(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        """When each token of each answer was there, in seconds."""
        times: list[list[float]] = [[] for _ in requests]
        self.begin(SLOTS, max(len(r["prompt"]) + r["tokens"] for r in requests))
        memory = self.lib.llama_get_memory(self.context)
        waiting = list(zip(requests, times, strict=True))
        free, slots = list(range(SLOTS)), list[Slot]()
        began = time.perf_counter()
        while waiting or slots:
            while waiting and free and waiting[0][0]["at"] <= time.perf_counter() - began:
                request, kept = waiting.pop(0)
                slots.append(Slot(free.pop(0), request["prompt"], request["tokens"], kept))
            if not slots:
                time.sleep(max(0.0, began + waiting[0][0]["at"] - time.perf_counter()))
                continue
            self.step(slots, began)
            for slot in [slot for slot in slots if len(slot.times) == slot.tokens]:
                self.lib.llama_memory_seq_rm(memory, slot.number, -1, -1)
                slots.remove(slot)
                free.append(slot.number)
        return times

    def step(self, slots: list[Slot], began: float) -> None:  # type: ignore[override]
        """One call: a token of each slot that writes, then pieces of prompts."""
        call: list[tuple[int, int, int, bool]] = []
        ready: list[tuple[Slot, int]] = []
        for slot in slots:
            if slot.times:
                ready.append((slot, len(call)))
                call.append((slot.next, len(slot.prompt) + len(slot.times) - 1, slot.number, True))
        for slot in slots:
            if slot.done < len(slot.prompt):
                end = min(len(slot.prompt), slot.done + CALL - len(call))
                for place in range(slot.done, end):
                    call.append((slot.prompt[place], place, slot.number, place == len(slot.prompt) - 1))
                slot.done = end
                if end == len(slot.prompt):
                    ready.append((slot, len(call) - 1))
        self.run(call)
        for slot, place in ready:
            slot.next = self.best(place)
            slot.times.append(time.perf_counter() - began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    main(lambda: CrowdOfLlama(given))
