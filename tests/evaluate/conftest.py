"""A tiny random model, ready to answer, without a tokenizer."""

import pytest
import torch
from peers import build, tiny

from pureqwen.qwen import Qwen


@pytest.fixture
def qwen() -> Qwen:
    torch.manual_seed(0)
    return Qwen(build(tiny()), name="tiny")
