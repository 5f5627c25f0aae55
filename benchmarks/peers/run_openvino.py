"""The worker of OpenVINO: the model that optimum-intel exported, its head cut down to the last token.

    python -m benchmarks.peers.run_openvino FOLDER

Without that cut it would compute the logits of the whole prompt. Everything else is as its defaults have it,
the precision of its cache too.
"""

import argparse
from typing import Any

from benchmarks.peers.worker import main


class OpenVino:
    def __init__(self, options: argparse.Namespace) -> None:
        import numpy
        import openvino

        self.options, self.openvino, self.numpy = options, openvino, numpy

    def load(self) -> dict[str, Any]:
        core = self.openvino.Core()
        model = core.read_model(f"{self.options.folder}/openvino_model.xml")
        last_token_only(model)
        settings = {"INFERENCE_NUM_THREADS": self.options.threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(model, "CPU", settings)
        self.request = compiled.create_infer_request()
        cache = compiled.get_property("KV_CACHE_PRECISION").get_type_name()
        return {"dtype": cache, "versions": {"openvino": self.openvino.__version__}}

    def prefill(self, prompts: list[list[int]]) -> None:
        self.request.reset_state()
        self.past, self.ids = 0, self.numpy.array(prompts, self.numpy.int64)
        self.step()

    def step(self) -> None:
        rows, now = self.ids.shape
        numpy, end = self.numpy, self.past + now
        self.request.infer(
            {
                "input_ids": self.ids,
                "attention_mask": numpy.ones((rows, end), numpy.int64),
                "position_ids": numpy.tile(numpy.arange(self.past, end), (rows, 1)),
                "beam_idx": numpy.arange(rows, dtype=numpy.int32),
            }
        )
        self.past = end
        self.ids = self.request.get_tensor("logits").data[:, -1].argmax(-1)[:, None]


def last_token_only(model: Any) -> None:
    """Slice what goes into the last product: (B, S, D) to (B, 1, D)."""
    import numpy
    from openvino import opset13 as ops

    product = model.output("logits").get_node()
    while product.get_type_name() != "MatMul":
        product = product.input_value(0).get_node()
    start, stop, step, axis = (ops.constant([n], dtype=numpy.int64) for n in (-1, 2**31 - 1, 1, 1))
    last = ops.slice(product.input_value(0), start, stop, step, axis)
    product.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    main(lambda: OpenVino(given))
