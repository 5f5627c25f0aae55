"""What other implementations got wrong in the model itself, each pinned by name."""

import pytest
import torch
from peers import MOE, build, tiny

from pureqwen.config import ModelConfig, RopeScaling
from pureqwen.model import MLP, MoE, Qwen3, Rope, rotate
from pureqwen.model.rope import attention_factor


def test_head_dim_is_the_configs_and_not_hidden_size_over_heads():
    with torch.device("meta"):
        model = Qwen3(ModelConfig.preset("Qwen3-0.6B"))
    attention = model.model.layers[0].self_attn
    assert attention.head_dim == 128 != 1024 // 16
    assert attention.q_proj.weight.shape == (2048, 1024)


@torch.inference_mode()
def test_qk_norm_stands_before_rope():
    """Norm weights that differ between the two halves do not commute with the rotation."""
    model = build(tiny(num_hidden_layers=1))
    attention = model.model.layers[0].self_attn
    seen = {}

    def attend(q, k, v):
        seen.update(q=q, k=k)
        return q

    x = torch.randn(1, 5, 64)
    angles = model.model.rope(torch.arange(5)[None], torch.float32)
    attention(x, angles, attend)
    for name, projection, norm in (
        ("q", attention.q_proj, attention.q_norm),
        ("k", attention.k_proj, attention.k_norm),
    ):
        heads = projection(x).unflatten(-1, (-1, 16))
        right, wrong = rotate(norm(heads), angles), norm(rotate(heads, angles))
        torch.testing.assert_close(seen[name], right)
        assert (seen[name] - wrong).abs().max() > 1e-2


def test_rope_pairs_the_halves_and_not_the_neighbours():
    cos, sin = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)  # a quarter turn
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4)
    assert rotate(x, (cos, sin)).flatten().tolist() == [-3.0, -4.0, 1.0, 2.0]


def test_rope_angles_stay_float32_in_a_bfloat16_model():
    rope = Rope(tiny())
    cos, _ = rope(torch.tensor([100_001]), torch.bfloat16)
    exact = (100_001 * rope.frequencies(torch.device("cpu")).double()).cos()
    assert cos.dtype == torch.bfloat16
    assert (cos.flatten().double() - exact).abs().max() < 0.01  # bf16 angles would be off by whole turns


def test_no_buffer_is_there_to_be_cast_or_to_be_missing_in_a_file():
    assert not list(Qwen3(tiny(**MOE)).buffers())


def test_yarn_factor_and_original_length_are_honoured():
    def frequencies(factor, original):
        scaling = RopeScaling(rope_type="yarn", factor=factor, original_max_position_embeddings=original)
        return Rope(tiny(rope_scaling=scaling, head_dim=128)).frequencies(torch.device("cpu"))

    plain = Rope(tiny(head_dim=128)).frequencies(torch.device("cpu"))
    four = frequencies(4.0, 32768)
    torch.testing.assert_close(four[0], plain[0])  # turns often: kept
    torch.testing.assert_close(four[-1], plain[-1] / 4)  # turns less than once: slowed by the factor
    assert not torch.equal(four, frequencies(1.25, 32768))
    assert not torch.equal(four, frequencies(4.0, 4096))
    assert attention_factor(
        RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=1)
    ) == (pytest.approx(1.1386294361119891))


def test_yarn_is_off_unless_the_config_asks_for_it():
    assert ModelConfig.preset("Qwen3-0.6B").rope_scaling is None


def test_decoder_sparse_step_and_mlp_only_layers_make_dense_layers_in_a_moe():
    def kinds(**changes):
        with torch.device("meta"):
            model = Qwen3(tiny(**{**MOE, **changes}))
        return [type(layer.mlp) for layer in model.model.layers]

    assert kinds() == [MoE] * 4
    assert kinds(decoder_sparse_step=2) == [MLP, MoE, MLP, MoE]
    assert kinds(mlp_only_layers=(0, 3)) == [MLP, MoE, MoE, MLP]


def test_tied_head_is_one_matrix():
    with torch.device("meta"):
        tied, untied = (Qwen3(tiny(tie_word_embeddings=tie)) for tie in (True, False))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 256 * 64


def test_real_0_6b_holds_596_million_parameters_and_not_752():
    with torch.device("meta"):
        model = Qwen3(ModelConfig.preset("Qwen3-0.6B"))
    assert sum(p.numel() for p in model.parameters()) == 596_049_920


@torch.inference_mode()
def test_hidden_states_of_leading_dimensions_of_any_kind_agree():
    model = build(tiny())
    ids = torch.randint(0, 256, (2, 9))
    torch.testing.assert_close(model(ids)[1], model(ids[1]), atol=1e-4, rtol=1e-4)
