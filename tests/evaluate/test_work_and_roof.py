"""The bytes and operations of a forward against numbers counted by hand, and the limits that follow."""

import dataclasses

import pytest
from peers import MOE, tiny

from pureqwen.config.quantization import SCHEMES, quantization_config
from pureqwen.evaluate.roofline import Roof, Work, roof_of, work_of
from pureqwen.explain import ledger

# Of one layer of peers.tiny: q and o 64 x 64, k and v 64 x 32, three of 64 x 96; two norms of 64, two of 16.
MATRICES = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
NORMS = 2 * 64 + 2 * 16
HEAD = 64 * 256
KV = 2 * 2 * 16 * 4  # numbers of a token's keys and values: two heads of 16, four layers


def test_a_step_reads_every_matrix_once_and_the_cache_and_multiplies_each_weight_once() -> None:
    work = work_of(ledger(tiny(), dtype="float32"), [(10, 1)])
    numbers = 4 * (MATRICES + NORMS) + HEAD + 64 + 64  # the last norm, and a row of the embedding
    assert work.num_bytes == 4 * (numbers + 11 * KV)
    assert work.flops == 2 * (4 * MATRICES + HEAD) + 4 * 64 * 4 * 11


def test_a_tied_head_is_read_although_it_holds_nothing_of_its_own() -> None:
    tied, untied = (
        work_of(ledger(tiny(tie_word_embeddings=tied), dtype="float32"), [(10, 1)]) for tied in (True, False)
    )
    assert tied == untied


def test_a_prompt_pays_the_head_once_and_looks_back_at_half_of_its_pairs() -> None:
    work = work_of(ledger(tiny(), dtype="bfloat16"), [(0, 100)])
    assert work.flops == 2 * (100 * 4 * MATRICES + HEAD) + 4 * 64 * 4 * (100 * 101 // 2)
    assert work.num_bytes == 2 * (4 * (MATRICES + NORMS) + HEAD + 64 + 100 * 64 + 100 * KV)


def test_rows_share_the_weights_but_not_the_cache() -> None:
    counted = ledger(tiny(), dtype="float32")
    one, eight = work_of(counted, [(10, 1)]), work_of(counted, [(10, 1)] * 8)
    assert eight.flops == 8 * one.flops
    assert eight.num_bytes - one.num_bytes == 7 * 4 * (11 * KV + 64)


def test_a_token_reads_its_own_experts_and_many_tokens_nearly_all_of_them() -> None:
    counted = ledger(tiny(**MOE), dtype="float32")
    expert, layer = 3 * 64 * 32, 2 * 64 * 64 + 2 * 64 * 32 + NORMS + 8 * 64  # 8 experts, 2 are chosen
    rest = HEAD + 64 + 4 * layer
    step = work_of(counted, [(0, 1)]).num_bytes / 4 - KV - 64
    assert step == rest + 4 * 2 * expert
    four = work_of(counted, [(0, 1)] * 4).num_bytes / 4 - 4 * (KV + 64)
    assert four == pytest.approx(rest + 4 * expert * 8 * (1 - 0.75**4), abs=1)


def test_quantised_matrices_are_read_in_their_own_bits() -> None:
    config = tiny()
    scheme = SCHEMES["int8"]
    quantized = dataclasses.replace(config, quantization_config=quantization_config(scheme, scheme))
    work = work_of(ledger(quantized, dtype="bfloat16"), [(0, 1)])
    scales = 4 * (64 + 32 + 32 + 64 + 96 + 96 + 64) + 256  # one for each row, in bfloat16
    assert work.num_bytes == 4 * MATRICES + HEAD + 2 * (scales + 4 * NORMS + 64 + 64 + KV)


def test_the_floor_is_the_longer_of_reading_and_multiplying() -> None:
    roof = Roof(bandwidth=10.0, peak=100.0)
    assert roof.ridge == 10
    assert (roof.floor(Work(flops=50, num_bytes=20)), roof.bound(Work(flops=50, num_bytes=20))) == (
        2,
        "memory",
    )
    assert (roof.floor(Work(flops=500, num_bytes=20)), roof.bound(Work(flops=500, num_bytes=20))) == (
        5,
        "products",
    )
    assert [roof.reach(x) for x in (1, 10, 1000)] == [10, 100, 100]


@pytest.mark.parametrize(
    ("dtype", "bits", "best"),
    [
        ("float32", 32, "float32"),
        ("bfloat16", 16, "float32"),  # which this machine multiplies faster than bfloat16
        ("bfloat16", 8.02, "int8"),
        ("bfloat16", 4.5, "int4"),
        ("float16", 16, "float32"),  # not measured
    ],
)
def test_the_peak_is_that_of_the_quickest_product_that_the_weights_allow(
    dtype: str, bits: float, best: str
) -> None:
    peaks = {"float32": 80.0, "bfloat16": 10.0, "int8": 300.0, "int4": 320.0}
    roof, name = roof_of(7.0, peaks, dtype=dtype, bits=bits)
    assert (name, roof) == (best, Roof(bandwidth=7.0, peak=peaks[best]))
