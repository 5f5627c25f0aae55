"""The worker of transformers: its defaults, and the logits of the last token only.

python -m benchmarks.peers.run_transformers FOLDER --dtype bfloat16
"""

import argparse
from typing import Any

from benchmarks.peers.worker import main


class Transformers:
    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(options.threads)
        torch.set_grad_enabled(False)
        self.options, self.torch, self.transformers = options, torch, transformers

    def load(self) -> dict[str, Any]:
        dtype = getattr(self.torch, self.options.dtype)
        load = self.transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(self.options.folder, dtype=dtype, attn_implementation="sdpa").eval()
        versions = {"transformers": self.transformers.__version__, "torch": self.torch.__version__}
        return {"dtype": self.options.dtype, "versions": versions}

    def prefill(self, prompts: list[list[int]]) -> None:
        self.cache = self.transformers.DynamicCache(config=self.model.config)
        self.ids = self.torch.tensor(prompts)
        self.step()

    def step(self) -> None:
        with self.torch.inference_mode():
            out = self.model(self.ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self.ids = out.logits[:, -1:].argmax(-1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    main(lambda: Transformers(given))
