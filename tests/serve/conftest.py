"""One server for the tests of a process: the pocket behind the real engine, on a free port."""

from collections.abc import Iterator

import pytest
from running import Running, running

import pureqwen
from pureqwen import Qwen
from pureqwen.serve.engine import Engine
from pureqwen.serve.server import tuned


@pytest.fixture(scope="session", autouse=True)
def ours() -> Iterator[None]:
    """This process as `pureqwen serve` has its own."""
    with tuned():
        yield


@pytest.fixture(scope="session")
def pocket() -> Qwen:
    return pureqwen.load()


@pytest.fixture(scope="session")
def served(pocket: Qwen) -> Iterator[Running]:
    with running(Engine(pocket), pocket) as server:
        yield server
