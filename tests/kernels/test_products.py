"""Native products against their twins: the same numbers, whatever is beside a row, on any threads."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pureqwen import kernels
from pureqwen.kernels import twins

needs_native = pytest.mark.skipif(kernels.native() is not None, reason=f"no native code: {kernels.native()}")
DTYPES = [torch.float32, torch.bfloat16]
GROUPS = [32, 64, 128]


def rows(M: int, K: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(M, K).to(dtype)


def int8(N: int, K: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    return torch.randint(-127, 128, (N, K), dtype=torch.int8), (torch.rand(N, 1) / 100).to(dtype)


def int4(N: int, K: int, group: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    return twins.pack(torch.randint(-8, 8, (N, K), dtype=torch.int8)), (torch.rand(N, K // group) / 9).to(
        dtype
    )


def by_twin(product: Callable[..., Tensor], x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return product(*twins.whole(x), weight, scale, x)


@needs_native
@pytest.mark.parametrize("K", [64, 100, 1000, 3072, 4096])
@pytest.mark.parametrize("N", [1, 5, 64])
def test_int8_is_exact_for_any_number_of_rows_and_columns(N: int, K: int) -> None:
    """Panels, blocks and what is left over at their ends."""
    weight, scale = int8(N, K)
    for M in (1, 2, 3, 4, 5, 6, 33, 200):  # each size of a block, and more rows than stay in the cache
        x = rows(M, K)
        got = torch.ops.pureqwen.product_int8(*twins.whole(x), weight, scale, x)
        assert torch.equal(got, by_twin(twins.product_int8, x, weight, scale)), M


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@needs_native
@pytest.mark.parametrize("size", [1e-45, 1e-42, 1e-37, 1.6e-36])
def test_rows_of_numbers_near_zero_have_no_number_out_of_range(size: float) -> None:
    """A scale that is no normal number would lose its bits, and with it 127 could become 128 and more."""
    x = torch.tensor([[1.0, -1.0, 0.4, *[0.0] * 61]]) * size
    q, scale = twins.whole(x)
    found = torch.ops.pureqwen.quantize(x)
    assert torch.equal(found[0], q) and torch.equal(found[1], scale)
    assert int(q.abs().max()) == (127 if size > 1.5e-36 else 0)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scales", DTYPES)
@pytest.mark.parametrize(("M", "K"), [(1, 416), (2, 416), (7, 416), (16, 416), (131, 416), (131, 448)])
def test_int8_is_its_twin_bit_by_bit(M: int, K: int, scales: torch.dtype, dtype: torch.dtype) -> None:
    """Rows of whole lines (448) and others, more than stay in the cache, too."""
    x, (weight, scale) = rows(M, K, dtype), int8(70, K, scales)
    x[0, :3] = torch.tensor([0.5, -0.5, 127.0])  # halves are rounded to even
    assert torch.equal(kernels.linear_int8(x, weight, scale), by_twin(twins.product_int8, x, weight, scale))


@needs_native
@pytest.mark.parametrize("K", [32, 100, 1088])
@pytest.mark.parametrize("N", [31, 32, 70])
def test_a_row_of_int8_is_the_same_bits_on_every_path(N: int, K: int) -> None:
    """Alone, with few, in tiles, through PyTorch's product: the sums are exact, the scaling has one order."""
    weight, scale = int8(N, K)
    whole = kernels.quantize(rows(115, K, torch.bfloat16))
    everything = kernels.product_int8(whole, weight, scale)
    twin = twins.scaled(twins.exact(whole.q, weight), whole.scale, scale, whole.like)
    assert torch.equal(twin, everything)
    for first in (1, 2, 3, 8, 13, 16, 17, 29, kernels.MANY, kernels.MANY + 1, 96, 97):
        some = kernels.Whole(whole.q[:first], whole.scale[:first], whole.like)
        assert torch.equal(kernels.product_int8(some, weight, scale), everything[:first]), first
        assert torch.equal(
            torch.ops.pureqwen.product_int8(*some[:2], weight, scale, some.like), everything[:first]
        )


@needs_native
def test_the_largest_numbers_do_not_overflow() -> None:
    """Bytes of -128 and 127 over rows as long as the longest of the family."""
    K = 25_600
    for number in (-128, 127):
        weight = torch.full((33, K), number, dtype=torch.int8)
        for M in (1, 17, 50, 100):
            whole = kernels.quantize(torch.ones(M, K))
            got = kernels.product_int8(whole, weight, torch.ones(33, 1))
            assert torch.equal(got, (whole.scale * (127 * number * K)).expand(M, 33)), (number, M)


@needs_native
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("M", [1, 3, 8, 17])
def test_the_largest_numbers_of_4_bits_do_not_overflow(M: int, group: int) -> None:
    """Sums stand in 16 bits for a while: signs and weights of which one half of a lane gets the most."""
    K = 256
    signs = torch.tensor([[1, 1, 1, 1], [-1, -1, -1, -1], [1, 1, -1, -1], [-1, -1, 1, 1], [1, -1, 1, -1]])
    for sign in signs.repeat(1, K // 4).float():
        q = (127 * sign).to(torch.int8).repeat(M, 1)
        weights = torch.stack([sign * 7.5 - 0.5, -sign * 7.5 - 0.5, 0 * sign - 8, 0 * sign + 7]).to(
            torch.int8
        )
        exact = q.double() @ weights.double().T
        whole = kernels.Whole(q, torch.ones(M, 1), torch.empty(1))
        got = kernels.product_int4(whole, twins.pack(weights), torch.ones(4, K // group))
        assert torch.equal(got.double(), exact), sign[:4]


@needs_native
@pytest.mark.parametrize("scales", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_another_product_are_scaled_as_the_twin_does(dtype: torch.dtype, scales: torch.dtype) -> None:
    sums = torch.randint(-(2**30), 2**30, (5, 37), dtype=torch.int32)
    a, scale = torch.rand(5, 1), torch.rand(37, 1).to(scales)
    got = torch.ops.pureqwen.scale_sums(sums, a, scale, rows(1, 1, dtype))
    assert torch.equal(got, twins.scaled(sums, a, scale, rows(1, 1, dtype)))
    arguments = (sums, a, scale, rows(1, 1, dtype))
    fake = torch.ops.pureqwen.scale_sums(*(tensor.to("meta") for tensor in arguments))
    assert (fake.shape, fake.dtype) == (got.shape, dtype)
    with pytest.raises(RuntimeError, match="scale_sums"):
        torch.ops.pureqwen.scale_sums(sums.float(), a, scale, a)


@needs_native
@pytest.mark.parametrize("scales", DTYPES)
@pytest.mark.parametrize(
    ("K", "group"), [(768, 32), (768, 64), (768, 128), (768, 192), (768, 256), (320, 64), (1056, 32)]
)
def test_a_row_of_int4_differs_between_few_and_many_rows_by_the_order_of_sums_alone(
    K: int, group: int, scales: torch.dtype
) -> None:
    """With few rows a group's sum is added lane by lane; on each side of the border it is the same bits."""
    packed, scale = int4(70, K, group, scales)
    whole = kernels.quantize(rows(61, K))

    def first(M: int) -> Tensor:
        return kernels.product_int4(kernels.Whole(whole.q[:M], whole.scale[:M], whole.like), packed, scale)

    few, many = first(16), first(61)
    for M in (1, 2, 3, 7, 8, 13):
        assert torch.equal(first(M), few[:M]), M
    for M in (17, 24, 37, 60):
        assert torch.equal(first(M), many[:M]), M
    assert (few - many[:16]).abs().max() <= 2e-6 * many.abs().max()


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("M", [1, 5, 16, 17, 45])
def test_int4_is_its_twin_up_to_the_order_of_sums(M: int, group: int, dtype: torch.dtype) -> None:
    x, (packed, scale) = rows(M, 768, dtype), int4(33, 768, group)
    got, expected = kernels.linear_int4(x, packed, scale), by_twin(twins.product_int4, x, packed, scale)
    limit = 2e-6 if dtype == torch.float32 else 8e-3
    assert (got - expected).abs().max() <= limit * expected.abs().max()


@needs_native
@pytest.mark.parametrize("K", [4096, 9728])
@pytest.mark.parametrize("group", GROUPS)
def test_long_rows_of_int4_far_from_zero_round_a_little_more(group: int, K: int) -> None:
    """A stored weight is 8 too large; what that adds is taken off again as a float."""
    packed, scale = int4(40, K, group)
    x = rows(19, K) + 3
    expected = by_twin(twins.product_int4, x, packed, scale)
    for M in (1, 4, 16, 19):
        got = kernels.linear_int4(x[:M], packed, scale)
        assert (got - expected[:M]).abs().max() <= 6e-6 * expected.abs().max(), M


@needs_native
@pytest.mark.parametrize("scales", DTYPES)
@pytest.mark.parametrize(
    ("K", "group"),
    [(32, 32), (96, 96), (160, 32), (192, 192), (320, 64), (1024, 256), (1056, 32), (1152, 192), (1280, 160)],
)
@pytest.mark.parametrize("N", [1, 3, 33])
def test_int4_of_groups_and_lines_that_do_not_fill_each_other(
    N: int, K: int, group: int, scales: torch.dtype
) -> None:
    packed, scale = int4(N, K, group, scales)
    for M in (1, 3, 4, 6, 19):
        x = rows(M, K)
        got, expected = kernels.linear_int4(x, packed, scale), by_twin(twins.product_int4, x, packed, scale)
        assert (got - expected).abs().max() <= 3e-6 * expected.abs().max(), M


@needs_native
def test_weights_may_begin_anywhere_in_memory() -> None:
    """Where no line of the cache begins, too: safetensors puts them where they fall."""
    weight, scale = int8(37, 96)
    packed, groups = int4(37, 96, 32)
    x = rows(3, 96)
    bytes_, nibbles = kernels.linear_int8(x, weight, scale), kernels.linear_int4(x, packed, groups)
    for odd in range(1, 4):
        moved = torch.cat([weight.new_zeros(odd), weight.flatten()])[odd:].view_as(weight)
        shifted = torch.cat([packed.new_zeros(odd), packed.flatten()])[odd:].view_as(packed)
        assert torch.equal(kernels.linear_int8(x, moved, scale), bytes_)
        assert torch.equal(kernels.linear_int4(x, shifted, groups), nibbles)


@needs_native
def test_pytorchs_product_of_bytes_takes_over_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, scale = int8(40, 64)
    x = rows(kernels.MANY + 1, 64)
    expected, made = kernels.linear_int8(x, weight, scale), []

    def exact(q: Tensor, weight: Tensor) -> Tensor:
        made.append(len(q))
        return (q.long() @ weight.long().t()).int()

    monkeypatch.setattr(twins, "faster_int8", lambda: True)
    monkeypatch.setattr(kernels, "multiplies_many", lambda: False)
    monkeypatch.setattr(twins, "exact", exact)
    assert torch.equal(kernels.linear_int8(x, weight, scale), expected)
    assert torch.equal(kernels.linear_int8(x[:-1], weight, scale), expected[:-1])
    assert made == [kernels.MANY + 1]


@needs_native
@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", [1, 2, 3, 7, 16, 61, 65])
def test_floats_are_the_product_in_float64_up_to_rounding(
    M: int, dtype: torch.dtype, weights: torch.dtype
) -> None:
    x, weight = rows(M, 320, dtype), rows(200, 320, weights)
    expected = x.double() @ weight.double().t()
    got = kernels.linear(x, weight)
    assert got.dtype == dtype
    limit = 1e-6 if dtype == torch.float32 else 4e-3
    assert (got.double() - expected).abs().max() <= limit * expected.abs().max()


Product = Callable[[Tensor], Tensor]


def products(K: int) -> dict[str, Product]:
    weight, scale = int8(300, K)
    packed, groups = int4(300, K, 32)
    matrix, floats = rows(300, K, torch.bfloat16), rows(300, K)
    return {
        "float32": lambda x: kernels.linear(x, floats),
        "bfloat16": lambda x: kernels.linear(x, matrix),
        "int8": lambda x: kernels.linear_int8(x, weight, scale),
        "int4": lambda x: kernels.linear_int4(x, packed, groups),
    }


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [1024, 1056])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8", "int4"])
def test_a_row_depends_on_no_neighbour_and_on_no_number_of_threads(
    name: str, K: int, dtype: torch.dtype
) -> None:
    product, x = products(K)[name], rows(16, K, dtype)
    units = name == "bfloat16" and dtype == torch.bfloat16 and kernels.multiplies_many()
    for sizes in ((1, 2, 4), (8, 16)) if units else ((1, 2, 4, 5, 16),):
        assert_alike(product, x, sizes)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N", [300, 7])
def test_linear_alike_has_no_border(N: int, dtype: torch.dtype) -> None:
    matrix, x = rows(N, 1056, dtype), rows(130, 1056, dtype)
    product = partial(torch.ops.pureqwen.linear_alike, weight=matrix)
    assert_alike(product, x, (1, 4, 5, 16, 17, 70, 130))
    assert (product(x) - kernels.linear(x, matrix)).abs().max() <= 4e-3 * product(x).abs().max()


@needs_native
@pytest.mark.parametrize("K", [1056, 2048])
@pytest.mark.parametrize("N", [300, 7])
def test_very_many_rows_of_bfloat16(N: int, K: int) -> None:
    """As an expert of a mixture may get."""
    matrix, x = rows(N, K, torch.bfloat16), rows(246, K, torch.bfloat16)
    product = partial(torch.ops.pureqwen.linear, weight=matrix)
    assert_alike(product, x, (246, 123))
    expected = x.double() @ matrix.double().t()
    assert (product(x).double() - expected).abs().max() <= 4e-3 * expected.abs().max()


@needs_native
def test_rows_that_do_not_all_stay_near_are_products_too() -> None:
    """With units for matrices many wide rows pass in several pieces."""
    x = rows(210, 4096, torch.bfloat16)
    matrix, (packed, groups) = rows(72, 4096, torch.bfloat16), int4(72, 4096, 32)
    floats = x.double() @ matrix.double().t()
    assert (kernels.linear(x, matrix).double() - floats).abs().max() <= 4e-3 * floats.abs().max()
    nibbles = kernels.linear_int4(x.float(), packed, groups)
    q, scale = kernels.quantize(x.float())[:2]
    whole = twins.product_int4(q, scale, packed, groups, x.float())
    assert (nibbles - whole).abs().max() <= 1e-5 * whole.abs().max()
    empty = torch.ops.pureqwen.linear_alike(x[:0], matrix)
    assert empty.shape == (0, 72)


def assert_alike(product: Product, x: Tensor, sizes: Sequence[int]) -> None:
    """That rows have the same bits among so many of them, and with any number of threads."""
    torch.set_num_threads(1)
    expected = torch.cat([product(part) for part in x.split(sizes[0])])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for size in sizes:
            assert torch.equal(torch.cat([product(part) for part in x.split(size)]), expected)


@needs_native
@pytest.mark.skipif(
    not twins.slower_bfloat16(), reason="PyTorch's products of more than a few rows are used here"
)
@pytest.mark.parametrize("N", [300, 7])
def test_several_rows_of_bfloat16_have_the_bits_of_one(N: int) -> None:
    if kernels.multiplies_many():
        pytest.skip("more than a few rows meet units for matrices, which these tests can bring along")
    x, weight = rows(kernels.SEVERAL, 1056, torch.bfloat16), rows(N, 1056, torch.bfloat16)
    alone = torch.cat([kernels.linear(row[None], weight) for row in x])
    for size in (5, 16, 17, kernels.SEVERAL):
        assert torch.equal(torch.cat([kernels.linear(part, weight) for part in x.split(size)]), alone)


@needs_native
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_many_rows_depend_on_no_neighbour_and_on_no_number_of_threads(name: str) -> None:
    product, x = products(1088)[name], rows(144, 1088)
    torch.set_num_threads(1)
    expected = product(x)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for size in (144, 100, 72, 24):
            got = torch.cat([product(part) for part in x.split(size)])
            assert torch.equal(got, expected), (threads, size)


@pytest.mark.parametrize("name", ["bfloat16", "int8", "int4"])
def test_leading_dimensions_stay_and_many_rows_are_few_rows_repeated(name: str) -> None:
    product, x = products(64)[name], rows(2 * 3 * 5, 64).view(2, 3, 5, 64)
    got = product(x)
    assert got.shape == (2, 3, 5, 300)
    few = torch.stack([product(part) for part in x.view(30, 64)])
    torch.testing.assert_close(got.view(30, 300), few, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_row_of_zeros_and_no_row_at_all_are_zeros_and_none(name: str) -> None:
    product = products(64)[name]
    assert torch.equal(product(torch.zeros(2, 64)), torch.zeros(2, 300))
    assert product(torch.zeros(0, 64)).shape == (0, 300)


@pytest.mark.parametrize("group", GROUPS)
def test_packed_weights_come_back(group: int) -> None:
    weight = torch.randint(-8, 8, (9, 128), dtype=torch.int8)
    assert torch.equal(twins.unpack(twins.pack(weight)), weight)
    assert twins.pack(weight)[0, 0].item() & 15 == weight[0, 0].item() + 8  # the first in the lowest bits


def test_whole_numbers_lose_at_most_half_a_step() -> None:
    x = rows(4, 100)
    q, scale = twins.whole(x)
    assert int(q.abs().max()) == 127
    assert bool(((q * scale - x).abs() <= scale / 2 * 1.0001).all())


@needs_native
def test_shapes_that_do_not_fit_are_an_error_and_not_a_crash() -> None:
    x, (weight, scale) = rows(1, 64), int8(8, 64)
    whole = twins.whole(x)
    for wrong in (weight[:, :32], weight.float(), weight.t()):
        with pytest.raises(RuntimeError, match="product_int8"):
            torch.ops.pureqwen.product_int8(*whole, wrong, scale, x)
    packed, groups = int4(8, 64, 32)
    with pytest.raises(RuntimeError, match="product_int4"):
        torch.ops.pureqwen.product_int4(*whole, packed, groups.repeat(1, 2), x)
    empty, none = rows(1, 0), (rows(1, 0).to(torch.int8), whole[1])
    with pytest.raises(RuntimeError, match="linear: bad shapes"):
        torch.ops.pureqwen.linear(empty, rows(8, 0))
    with pytest.raises(RuntimeError, match="product_int8: bad shapes"):
        torch.ops.pureqwen.product_int8(*none, weight[:, :0].contiguous(), scale, x)
    with pytest.raises(RuntimeError, match="product_int4: bad groups"):
        torch.ops.pureqwen.product_int4(*none, packed[:, :0].contiguous(), groups[:, :0].contiguous(), x)


@needs_native
def test_tensors_that_only_have_a_shape_ask_what_the_processor_can() -> None:
    kernels._known.cache_clear()
    with FakeTensorMode():
        x, weight = torch.empty(2, 64, dtype=torch.bfloat16), torch.empty(32, 64, dtype=torch.bfloat16)
        assert kernels.linear(x, weight).shape == (2, 32)
        there = kernels.attends_blocks(x.view(2, 2, 32))
    assert there == kernels.attends_blocks(torch.zeros(2, 2, 32, dtype=torch.bfloat16))


@needs_native
def test_the_meta_device_knows_the_shapes() -> None:
    x, (weight, scale) = rows(3, 64), int8(8, 64)
    arguments = (*twins.whole(x), weight, scale, x)
    got = torch.ops.pureqwen.product_int8(*(tensor.to("meta") for tensor in arguments))
    assert (got.shape, got.dtype) == ((3, 8), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_run_too(dtype: torch.dtype) -> None:
    x, (weight, scale) = rows(2, 64, dtype), int8(8, 64)
    assert kernels.linear_int8(x, weight, scale).dtype == dtype


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_what_is_no_number_makes_none_and_leaves_the_rows_beside_it(name: str) -> None:
    product, x = products(64)[name], rows(3, 64)
    expected = product(x)
    x[1, 5] = float("nan")
    got = product(x)
    assert bool(got[1].isnan().all()) and torch.equal(got[::2], expected[::2])


@needs_native
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_torch_compile_takes_it_whole() -> None:
    torch._dynamo.reset()
    x, (weight, scale) = rows(3, 64), int8(8, 64)
    compiled = torch.compile(kernels.linear_int8, backend="eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(x, weight, scale), kernels.linear_int8(x, weight, scale))
