"""The worker of llama.cpp, driven through the C functions that llama-cpp-python binds.

    python -m benchmarks.peers.run_llama FILE.gguf

A context for each shape of batch: one stretch of cells for each sequence, or one for all where there is only
one. Prompts go in one after the other, in one call each.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import main

BUILD = "-DGGML_NATIVE=ON"  # what `make peers` builds the wheel with,
WITHOUT_AMX = "-DCMAKE_CXX_FLAGS=-mno-amx-int8"  # and for processors with units for matrices
ROOM = 96  # tokens that may follow a prompt
CALL, INNER = 2048, 512  # tokens of one call, and of one product within it: llama.cpp's own defaults


class Llama:
    def __init__(self, options: argparse.Namespace) -> None:
        import llama_cpp
        import numpy

        self.options, self.lib, self.numpy = options, llama_cpp, numpy
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        self.context: Any = None
        self.shape = (0, 0)

    def load(self) -> dict[str, Any]:
        lib = self.lib
        self.model = lib.llama_model_load_from_file(
            self.options.file.encode(), lib.llama_model_default_params()
        )
        if not self.model:
            raise ValueError(f"{self.options.file} can't be loaded")
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.call = lib.llama_batch_init(CALL, 0, 1)
        found = lib.llama_print_system_info().decode().strip()
        cpu = Path("/proc/cpuinfo")
        units = cpu.exists() and "amx_int8" in cpu.read_text()
        flags = f"{BUILD} {WITHOUT_AMX}" if units else BUILD
        versions = {"llama-cpp-python": f"{lib.__version__} ({flags}; {found})"}
        return {"dtype": "float16", "versions": versions}  # of its cache

    def prefill(self, prompts: list[list[int]]) -> None:
        self.begin(len(prompts), len(prompts[0]))
        self.next = []
        for row, ids in enumerate(prompts):
            last = len(ids) - 1
            tokens = [(token, place, row, place == last) for place, token in enumerate(ids)]
            for start in range(0, len(tokens), CALL):
                self.run(tokens[start : start + CALL])
            self.next.append(self.best(last % CALL))
        self.place = len(prompts[0])

    def step(self) -> None:
        self.run([(token, self.place, row, True) for row, token in enumerate(self.next)])
        self.next = [self.best(row) for row in range(len(self.next))]
        self.place += 1

    def begin(self, batch: int, length: int) -> None:
        """A context for this shape, empty."""
        lib = self.lib
        if self.shape != (batch, length):
            if self.context:
                lib.llama_free(self.context)
            asked = lib.llama_context_default_params()
            asked.n_ctx, asked.n_seq_max = (length + ROOM) * batch, batch
            asked.n_batch, asked.n_ubatch = CALL, INNER
            asked.n_threads = asked.n_threads_batch = self.options.threads
            asked.kv_unified = batch == 1
            self.context, self.shape = lib.llama_init_from_model(self.model, asked), (batch, length)
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)

    def run(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """Tokens as (id, position, row, whether its logits are wanted)."""
        call = self.call
        call.n_tokens = len(tokens)
        for n, (token, place, row, wanted) in enumerate(tokens):
            call.token[n], call.pos[n], call.logits[n] = token, place, wanted
            call.n_seq_id[n], call.seq_id[n][0] = 1, row
        code = self.lib.llama_decode(self.context, call)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def best(self, n: int) -> int:
        """The likeliest token by the logits of the last call's token n."""
        logits = self.lib.llama_get_logits_ith(self.context, n)
        return int(self.numpy.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    main(lambda: Llama(given))
