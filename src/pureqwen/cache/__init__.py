"""Where K and V live between steps, so that a token's keys and values are computed once.

A cache hands out one `Attend` per layer and a `begin(rows)` that says what the next forward computes. The
names below are imported when they are first used: `pages`, which needs no torch, can be had without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pureqwen.cache.paged import PagedAttend as PagedAttend
    from pureqwen.cache.paged import PagedCache as PagedCache
    from pureqwen.cache.pages import PagePool as PagePool
    from pureqwen.cache.static import StaticAttend as StaticAttend
    from pureqwen.cache.static import StaticCache as StaticCache
    from pureqwen.cache.static import bytes_per_token as bytes_per_token

_HOMES = {
    "PagePool": "pages",
    "PagedAttend": "paged",
    "PagedCache": "paged",
    "StaticAttend": "static",
    "StaticCache": "static",
    "bytes_per_token": "static",
}

__all__ = ["PagePool", "PagedAttend", "PagedCache", "StaticAttend", "StaticCache", "bytes_per_token"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pureqwen.cache' has no attribute {name!r}")
    return getattr(import_module(f"pureqwen.cache.{_HOMES[name]}"), name)
