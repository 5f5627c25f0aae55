"""One model to another: functions Model -> Model that find modules by path and put others in their place.

The model's code never learns of them. Structure comes first, then weights: `pureqwen.load(..., rewrite=f)`
calls f on the model before a number is read, and what f put in says by its own parameter names what it reads.
"""

from pureqwen.rewrite.compile import compiled_blocks, eager
from pureqwen.rewrite.native import native_products
from pureqwen.rewrite.quantize import quantize
from pureqwen.rewrite.walk import Make, Rewrite, find, replace

__all__ = ["Make", "Rewrite", "compiled_blocks", "eager", "find", "native_products", "quantize", "replace"]
