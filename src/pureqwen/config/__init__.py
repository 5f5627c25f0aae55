"""What a model is and what is asked of it, as frozen dataclasses that import no torch."""

from pureqwen.config.engine import EngineConfig
from pureqwen.config.model import ModelConfig, RopeScaling, UnsupportedModel
from pureqwen.config.presets import PresetInfo, preset_info, preset_names, supported_models_table
from pureqwen.config.sampling import NEUTRAL, NON_THINKING, SamplingParams, eos_ids, read_generation_config
from pureqwen.config.serving import ServeConfig
from pureqwen.config.training import TrainConfig

__all__ = [
    "NEUTRAL",
    "NON_THINKING",
    "EngineConfig",
    "ModelConfig",
    "PresetInfo",
    "RopeScaling",
    "SamplingParams",
    "ServeConfig",
    "TrainConfig",
    "UnsupportedModel",
    "eos_ids",
    "preset_info",
    "preset_names",
    "read_generation_config",
    "supported_models_table",
]
