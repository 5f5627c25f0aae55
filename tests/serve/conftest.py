"""One server for the tests of a process: the pocket behind the real engine, on a free port."""

from collections.abc import Iterator

import pytest
from running import Running, running

import pureqwen
from pureqwen import Qwen
from pureqwen.serve.engine import Engine


@pytest.fixture(scope="session")
def pocket() -> Qwen:
    return pureqwen.load()


@pytest.fixture(scope="session")
def served(pocket: Qwen) -> Iterator[Running]:
    with running(Engine(pocket), pocket) as server:
        yield server
