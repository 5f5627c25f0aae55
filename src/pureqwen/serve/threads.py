"""Where the event loop has done what may take long: threads of three kinds, so that none waits for another.

    short     bodies of few bytes, and whole answers
    long      bodies of many, one after the other
    forms     grammars, which may take seconds, or never come to an end within their time

Submitting to the engine takes microseconds, and the event loop does it itself.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias, TypeVar

T = TypeVar("T")
Kind: TypeAlias = Literal["short", "long", "forms"]

SHORT = 4
FORMS = 4  # as many as are compiled at a time
LONG = 64 * 1024  # bytes of a body that is prepared among the long ones


class Threads:
    """The threads of one server; they begin when they are needed."""

    def __init__(self) -> None:
        self._pools: dict[Kind, ThreadPoolExecutor] = {
            "short": ThreadPoolExecutor(SHORT, thread_name_prefix="prepare"),
            "long": ThreadPoolExecutor(1, thread_name_prefix="prepare-long"),
            "forms": ThreadPoolExecutor(FORMS, thread_name_prefix="forms"),
        }

    async def run(self, kind: Kind, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns, computed in a thread of this kind."""
        return await asyncio.get_running_loop().run_in_executor(self._pools[kind], function, *arguments)

    def stop(self) -> None:
        """Begin nothing more; what is being computed is not waited for."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


def kind_of(size: int) -> Kind:
    """Where a body of so many bytes is prepared."""
    return "long" if size > LONG else "short"
