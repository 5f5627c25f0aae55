"""Operators in kinds, and what is left of a step's time for none of them."""

import pytest

from pureqwen.evaluate import profile
from pureqwen.evaluate.profile import BETWEEN, KINDS, kind_of, split
from pureqwen.qwen import Qwen

NAMES = {
    "native matrix products": "pureqwen::linear pureqwen::product_int4 pureqwen::experts_int8",
    "native attention": "pureqwen::paged_attention pureqwen::store_pages",
    "native norms and gates": "pureqwen::rms_norm_quantize pureqwen::qk_norm_rope pureqwen::swiglu",
    "matrix products": """
        aten::mm aten::addmm aten::bmm aten::linear aten::matmul aten::_int_mm aten::mv aten::dot
        aten::_grouped_mm aten::_weight_int4pack_mm_for_cpu mkldnn::_linear_pointwise
        onednn::qlinear_pointwise""",
    "attention": """
        aten::scaled_dot_product_attention aten::_scaled_dot_product_flash_attention_for_cpu
        aten::_flash_attention_forward aten::_efficient_attention_forward""",
    "copies, lookups": """
        aten::copy_ aten::_to_copy aten::to aten::cat aten::index aten::index_put_ aten::index_add_
        aten::_index_put_impl_ aten::embedding aten::clone aten::fill_ aten::index_select""",
    "norms and elementwise": """
        aten::mul aten::mul_ aten::add aten::add_ aten::pow aten::mean aten::rsqrt aten::silu
        aten::_softmax aten::cos aten::neg aten::div_ aten::masked_fill_ aten::square""",
    "views and others": """
        aten::view aten::transpose aten::as_strided aten::empty aten::argmax aten::topk new::thing""",
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in NAMES for name in NAMES[kind].split()])
def test_an_operator_is_of_its_kind(kind: str, name: str) -> None:
    assert kind_of(name) == kind


def test_a_step_is_split_into_kinds_and_the_rest() -> None:
    spent = [("aten::mm", 2.0), ("aten::bmm", 1.0), ("pureqwen::linear_int8", 3.0), ("aten::view", 0.5)]
    found = split(spent, seconds=10.0, steps=2)
    assert list(found.kinds) == list(KINDS)
    assert found.kinds["matrix products"] == 1.5
    assert found.kinds["native matrix products"] == 1.5
    assert found.kinds[BETWEEN] == 5 - 1.5 - 1.5 - 0.25
    assert sum(found.kinds.values()) == found.watched == 5
    assert found.native == ("linear_int8",)


def test_a_native_call_of_many_operations_is_split_as_they_take_time_by_themselves() -> None:
    spent = [("pureqwen::blocks", 8.0), ("pureqwen::linear", 1.0), ("aten::view", 0.5)]
    apart = [
        ("pureqwen::linear", 7.0),  # one second of it is the head's, as before
        ("pureqwen::paged_attention", 2.0),
        ("pureqwen::rms_norm", 4.0),
        ("aten::add", 9.0),
    ]
    found = split(spent, seconds=10.0, steps=1, apart=apart)
    assert found.kinds["native matrix products"] == 1 + 8 * 6 / 12
    assert found.kinds["native attention"] == 8 * 2 / 12
    assert found.kinds["native norms and gates"] == 8 * 4 / 12
    assert found.kinds["norms and elementwise"] == 0, "it is not what the step does"
    assert sum(found.kinds.values()) == pytest.approx(found.watched)
    assert found.native == ("blocks", "linear")


def test_a_step_of_a_model_is_made_of_operators_that_are_known(qwen: Qwen) -> None:
    found = profile.profile_step(qwen, cached=20, steps=2)
    for kind in ("matrix products", "attention"):  # PyTorch's or native ones
        assert found.kinds[kind] + found.kinds[f"native {kind}"] > 0, kind
    assert found.kinds[BETWEEN] > 0
    assert found.kinds["views and others"] < sum(found.kinds.values()) / 2, "most operators are known"
