"""pureqwen: the Qwen3 family of language models, written from scratch in pure PyTorch.

    import pureqwen
    qwen = pureqwen.load("Qwen/Qwen3-0.6B")          # or load(), for the small model inside this package
    print(qwen.chat("Why is the sky blue?").content)

The names below are imported when they are first used: `import pureqwen` is quick, and reaches no network.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pureqwen.chat import ChatTemplate as ChatTemplate
    from pureqwen.chat import Reply as Reply
    from pureqwen.chat import ToolCall as ToolCall
    from pureqwen.chat import parse_tool_calls as parse_tool_calls
    from pureqwen.chat import split_reasoning as split_reasoning
    from pureqwen.config import EngineConfig as EngineConfig
    from pureqwen.config import ModelConfig as ModelConfig
    from pureqwen.config import SamplingParams as SamplingParams
    from pureqwen.config import TrainConfig as TrainConfig
    from pureqwen.generate import Result as Result
    from pureqwen.generate import Timings as Timings
    from pureqwen.generate import Usage as Usage
    from pureqwen.model import Qwen3 as Qwen3
    from pureqwen.qwen import Qwen as Qwen
    from pureqwen.qwen import load as load
    from pureqwen.serve.engine import Engine as Engine
    from pureqwen.tokenizer import Tokenizer as Tokenizer
    from pureqwen.train import train as train

__version__ = "0.1.0"

_HOMES = {
    "ChatTemplate": "chat",
    "Engine": "serve.engine",
    "EngineConfig": "config",
    "ModelConfig": "config",
    "Qwen": "qwen",
    "Qwen3": "model",
    "Reply": "chat",
    "Result": "generate",
    "SamplingParams": "config",
    "Timings": "generate",
    "Tokenizer": "tokenizer",
    "ToolCall": "chat",
    "TrainConfig": "config",
    "Usage": "generate",
    "load": "qwen",
    "parse_tool_calls": "chat",
    "split_reasoning": "chat",
    "train": "train",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pureqwen' has no attribute {name!r}")
    home = f"pureqwen.{_HOMES[name]}"
    if home not in sys.modules:
        from pureqwen.garbage import building

        with building():
            import_module(home)
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
