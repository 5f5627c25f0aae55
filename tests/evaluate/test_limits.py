"""That the limits are the best of their runs, and that what a device can't do is left out."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from pureqwen import kernels
from pureqwen.evaluate import limits

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Durations that `best` will see, one after the other."""
    durations: list[float] = []
    ticks = itertools.count()
    now = [0.0]

    def perf_counter() -> float:
        if next(ticks) % 2:
            now[0] += durations.pop(0)
        return now[0]

    monkeypatch.setattr(limits.time, "perf_counter", perf_counter)
    yield durations


def test_a_limit_is_the_best_run(clock: list[float]) -> None:
    clock += [0.5, 0.25, 0.125, 0.375]
    assert limits.best(lambda: None, CPU, 3) == 0.125
    assert not clock


def test_what_takes_long_is_run_once(clock: list[float]) -> None:
    clock += [60.0, 1.0]
    assert limits.best(lambda: None, CPU, 3) == 60
    assert clock == [1.0]


def test_products_grow_until_one_takes_long(clock: list[float]) -> None:
    clock += [1e-6, 1e-6, 1.0, 1.0, 7.0]
    (way,) = limits.ways_to_multiply("float32", CPU)
    found = limits.peak(way, CPU, runs=1, sizes=(8, 16, 32))
    assert found == pytest.approx(2 * 8**3 / 1e-6)
    assert clock == [7.0], "a third product was run after one that took a second"


def test_the_quickest_way_to_read_is_named(clock: list[float]) -> None:
    buffer = torch.ones(2, limits.WIDTH)
    names = [name for name, _ in limits.ways_to_read(buffer)]
    clock += [second for n in range(len(names)) for second in (0.25 if n == 1 else 0.5,) * 2]
    assert limits.read_bandwidth(buffer, 1) == (buffer.nbytes / 0.25, names[1])


def test_a_copy_counts_what_is_read_and_what_is_written(clock: list[float]) -> None:
    clock += [0.5, 0.5]
    buffer = torch.ones(2, limits.WIDTH)
    assert limits.copy_bandwidth(buffer, 1) == 2 * buffer.nbytes / 0.5


def test_every_way_to_read_goes_through_the_whole_buffer() -> None:
    buffer = torch.ones(3, limits.WIDTH)
    for name, run in limits.ways_to_read(buffer):
        result = run()
        assert isinstance(result, torch.Tensor)
        assert result.float().sum().item() == 3 * limits.WIDTH, name


def test_a_dtype_that_can_not_be_multiplied_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*matrices: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not implemented for 'Char'")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    monkeypatch.setattr(kernels, "native", lambda: "switched off")
    peaks = limits.measure_peaks(CPU, runs=1, sizes=(32,))
    assert set(peaks) == {"float32", "bfloat16"}
    assert min(peaks.values()) > 0


def test_of_several_ways_to_multiply_the_quickest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"first": 7.0, "second": 3.0}
    monkeypatch.setattr(limits, "ways_to_multiply", lambda name, device: iter(speeds))
    monkeypatch.setattr(limits, "peak", lambda way, *args, **rest: speeds[way])
    assert set(limits.measure_peaks(CPU, runs=1).values()) == {7.0}


@pytest.mark.skipif(kernels.native() is not None, reason="no native code here")
def test_whole_numbers_are_multiplied_by_native_code_too() -> None:
    for name, ways in (("int8", 2), ("int4", 1)):
        found = list(limits.ways_to_multiply(name, CPU))
        assert len(found) == ways
        for way in found:
            product = way(128)()
            assert isinstance(product, torch.Tensor)
            assert torch.equal(product.float(), torch.full((128, 128), 128.0)), name


def test_all_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LONG", 0)  # the smallest products, once
    found = limits.measure_limits(CPU, num_bytes=1 << 16, runs=1)
    assert min(found.read, found.copy, *found.peaks.values()) > 0
    assert "float16" not in found.peaks
