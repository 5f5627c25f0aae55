"""One model to another: functions Model -> Model that find modules by path and put others in their place.

The model's code never learns of them. Structure comes first, then weights: `pureqwen.load(..., rewrite=f)`
calls f on the model before a number is read, and what f put in says by its own parameter names what it reads.
"""

from pureqwen.rewrite.compile import compile_blocks, compiled_blocks, eager, is_compiled, named_compiler
from pureqwen.rewrite.deterministic import deterministic
from pureqwen.rewrite.fuse import FusedBlock, FusedDecoder, fuse
from pureqwen.rewrite.native import for_cpu, native_products
from pureqwen.rewrite.quantize import quantize
from pureqwen.rewrite.walk import Make, Rewrite, find, replace

__all__ = [
    "FusedBlock",
    "FusedDecoder",
    "Make",
    "Rewrite",
    "compile_blocks",
    "compiled_blocks",
    "deterministic",
    "eager",
    "find",
    "for_cpu",
    "fuse",
    "is_compiled",
    "named_compiler",
    "native_products",
    "quantize",
    "replace",
]
