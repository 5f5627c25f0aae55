"""Where K and V live between steps, so that a token's keys and values are computed once.

A cache hands out one `Attend` per layer and a `begin(rows)` that says what the next forward computes.
"""

from pureqwen.cache.static import StaticAttend, StaticCache, bytes_per_token

__all__ = ["StaticAttend", "StaticCache", "bytes_per_token"]
