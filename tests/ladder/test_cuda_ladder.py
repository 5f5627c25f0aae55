"""The equivalence ladder on a CUDA device: the engine gives what the plain forward gives there.

    bfloat16   pages of 256 tokens, attention over all rows in one call of torch.nn.attention.varlen
    float32    the same logits, and the same tokens, as without any cache

Skipped where there is no such device.
"""

from typing import Any

import pytest
import torch
from peers import VARIANTS, build, tiny
from test_engine_ladder import PROMPTS, assert_equal, row, strangers

from pureqwen import Engine, EngineConfig, Qwen
from pureqwen.cache import PagedCache
from pureqwen.cache.paged import varlen_refusal
from pureqwen.generate import Full, Row, decode
from pureqwen.kernels import Table, paged_attention

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:attention copies keys and values"),
]

CUDA = torch.device("cuda")
ROWS = [(0, 300, 1), (1, 0, 1), (2, 511, 3), (3, 40, 200), (4, 256, 256)]  # text, tokens cached, tokens now


def attention(which: list[int], *, head_dim: int, group: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """What varlen's attention gives for these of ROWS, and what the plain formula gives in float32."""
    config = tiny(head_dim=head_dim, num_attention_heads=2 * group, num_hidden_layers=1)
    cache = PagedCache(config, num_pages=15, page_size=256, dtype=torch.bfloat16, device=CUDA)
    make = torch.Generator().manual_seed(seed)
    order = torch.randperm(15, generator=make).tolist()
    attend = cache.attends[0]
    for x in (attend.k, attend.v):
        x.copy_(torch.randn(x.shape, generator=make))
    q = torch.randn(512, 2 * group, head_dim, generator=make).to(CUDA, torch.bfloat16)
    k, v = (torch.randn(512, 2, head_dim, generator=make).to(CUDA, torch.bfloat16) for _ in range(2))
    firsts = [sum(now for _, _, now in ROWS[:n]) for n in range(len(ROWS))]
    picked = torch.tensor([at for n in which for at in range(firsts[n], firsts[n] + ROWS[n][2])], device=CUDA)
    cache.begin([(order[3 * n : 3 * n + 3], *ROWS[n][1:]) for n in which])
    q, k, v = q[picked], k[picked], v[picked]
    if not attend.at_once(q):
        pytest.skip(str(varlen_refusal(CUDA, q.dtype, *q.shape[1:])))
    out = attend(q, k, v)
    table = Table(attend.pages, attend.starts, attend.lengths)
    exact = paged_attention(q.float(), attend.k.float(), attend.v.float(), table)
    return out, exact


@pytest.mark.parametrize(("head_dim", "group"), [(64, 1), (128, 2), (128, 8)])
@torch.inference_mode()
def test_varlen_attention_over_pages_is_the_plain_formula(head_dim: int, group: int) -> None:
    out, exact = attention(list(range(len(ROWS))), head_dim=head_dim, group=group)
    assert (out - exact).norm() <= 5e-3 * exact.norm()


@torch.inference_mode()
def test_what_a_row_sees_does_not_depend_on_the_rows_beside_it() -> None:
    together, _ = attention(list(range(len(ROWS))), head_dim=128, group=2)
    at = 0
    for n, (_, _, now) in enumerate(ROWS):
        alone, _ = attention([n], head_dim=128, group=2)
        assert torch.equal(alone, together[at : at + now])
        at += now


@pytest.fixture(scope="module", params=VARIANTS)
def rung(request: pytest.FixtureRequest) -> tuple[Qwen, list[Row]]:
    """A model in float32, and its prompts' answers by the definition, without any cache."""
    qwen = Qwen(build(tiny(**VARIANTS[request.param])).to(CUDA))
    return qwen, by_definition(qwen)


def by_definition(qwen: Qwen) -> list[Row]:
    rows = [row(qwen, prompt) for prompt in PROMPTS]
    for _ in decode(rows, Full(qwen.model)):
        pass
    assert all(len(set(one.output)) >= 12 for one in rows)
    return rows


@pytest.mark.parametrize("page_size", [4, 256])
def test_in_float32_the_engine_gives_the_logits_of_the_full_forward(
    rung: tuple[Qwen, list[Row]], page_size: int
) -> None:
    """Among strangers, in chunks, and with a beginning that is found."""
    qwen, expected = rung
    engine = Engine(qwen, config=EngineConfig(step_tokens=40, page_size=page_size, max_batch=34))
    for _ in range(2):
        rows, others = [row(qwen, prompt) for prompt in PROMPTS], strangers(qwen, 31)
        engine.run([*others[:12], *rows, *others[12:]])
        assert_equal(rows, expected)


def errors(qwen: Qwen, exact: Qwen, rows: list[Row]) -> tuple[float, int]:
    """How far these rows' logits are from the same model's in float32, and how many tokens are told apart."""
    total, clear = 0.0, 0
    for one, prompt in zip(rows, PROMPTS, strict=True):
        ids = torch.tensor([*prompt, *one.output[:-1]], device=CUDA)
        with torch.inference_mode():
            wanted = exact.model(ids[None])[0, len(prompt) - 1 :]
        found = torch.stack(one.sampler.steps)  # type: ignore[attr-defined]
        off = (found - wanted).abs()
        best, second = wanted.topk(2).values.unbind(-1)
        sure = best - second > 2 * off.amax(-1)
        assert torch.equal(found.argmax(-1)[sure], wanted.argmax(-1)[sure])
        total, clear = total + off.square().mean().item(), clear + int(sure.sum())
    return total**0.5, clear


@pytest.mark.parametrize("variant", ["dense tied", "moe", "gqa ratio 8", "head_dim is not hidden / heads"])
def test_in_bfloat16_the_engine_is_as_near_to_float32_as_the_full_forward(variant: str) -> None:
    changes: dict[str, Any] = VARIANTS[variant]
    half = build(tiny(**changes)).to(CUDA, torch.bfloat16)
    exact = Qwen(build(tiny(**changes)).to(CUDA, torch.bfloat16).float())
    qwen = Qwen(half)
    plain = errors(qwen, exact, by_definition(qwen))
    engine = Engine(qwen, config=EngineConfig(step_tokens=40, max_batch=34))
    for _ in range(2):
        rows, others = [row(qwen, prompt) for prompt in PROMPTS], strangers(qwen, 31)
        engine.run([*others[:12], *rows, *others[12:]])
        found = errors(qwen, exact, rows)
        assert found[0] <= 1.1 * plain[0]
        assert found[1] > 12
