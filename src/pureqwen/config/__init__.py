"""What a model is and what is asked of it, as frozen dataclasses that import no torch."""

from pureqwen.config.model import ModelConfig, RopeScaling, UnsupportedModel
from pureqwen.config.sampling import NEUTRAL, NON_THINKING, SamplingParams, eos_ids

__all__ = [
    "NEUTRAL",
    "NON_THINKING",
    "ModelConfig",
    "RopeScaling",
    "SamplingParams",
    "UnsupportedModel",
    "eos_ids",
]
