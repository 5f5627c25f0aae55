"""The ladder at the real shape of Qwen3-0.6B: a checkpoint written by transformers, 64 greedy tokens."""

import pytest
import torch

import pureqwen
from pureqwen import ModelConfig

STEPS = 64


@pytest.mark.long
def test_real_0_6b_shape_gives_transformers_64_greedy_tokens(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    fields = ModelConfig.preset("Qwen3-0.6B").to_dict() | {"initializer_range": 0.1, "torch_dtype": "float32"}
    config = transformers.Qwen3Config.from_dict(fields)
    theirs = transformers.Qwen3ForCausalLM(config).float().eval()
    theirs.save_pretrained(tmp_path)
    prompt = torch.randint(0, 151_000, (1, 24), generator=torch.Generator().manual_seed(1))
    made = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=STEPS,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens, logits = made.sequences[0, 24:].tolist(), torch.cat(made.logits)
    best, second = logits.topk(2).values.unbind(-1)
    assert len(set(tokens)) >= 12
    assert (best - second).min() > 1e-4
    del theirs, made

    qwen = pureqwen.load(tmp_path, dtype="float32")
    result = qwen.generate(prompt[0].tolist(), temperature=0, max_tokens=STEPS, ignore_eos=True)
    assert result.token_ids == tokens
    with torch.inference_mode():
        ids = torch.cat((prompt[0], torch.tensor(tokens[:-1])))
        ours = qwen.model(ids, keep=slice(-STEPS, None))
    assert (ours - logits).abs().max() <= 2e-5 * logits.abs().max()
