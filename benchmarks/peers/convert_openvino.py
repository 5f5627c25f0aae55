"""A checkpoint as OpenVINO's IR, its weights in 8 or 4 bits. Runs in the peers' environment.

    python -m benchmarks.peers.convert_openvino CHECKPOINT --to int8 OUT

As optimum-intel does it where nothing else is said: int8 for each row; int4 in groups of 128, embedding and
head in int8.
"""

import argparse

BITS = {"int8": 8, "int4": 4}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--to", choices=BITS, required=True)
    given = parser.parse_args()
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    model = OVModelForCausalLM.from_pretrained(
        given.source,
        export=True,
        compile=False,
        quantization_config=OVWeightQuantizationConfig(bits=BITS[given.to]),
    )
    model.save_pretrained(given.out)
