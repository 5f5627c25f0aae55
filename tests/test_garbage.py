"""When Python looks for cycles, and when it does not."""

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest

import pureqwen
from pureqwen import cli
from pureqwen.garbage import building, uncollected

Block: TypeAlias = Callable[[], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


class Node:
    """May be part of a cycle, and be seen to end."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("block", [uncollected, building])
@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_in_the_block_and_then_it_is_as_before(block: Block, enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    with block():
        assert not gc.isenabled()
        with block():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() is enabled
    with pytest.raises(KeyError), block():
        raise KeyError
    assert gc.isenabled() is enabled


def test_what_was_built_is_old_and_still_collected() -> None:
    gc.collect()
    with building():
        kept, left = Node(), Node()
    assert any(found is kept for found in gc.get_objects(generation=2))
    assert gc.get_freeze_count() == 0
    seen = weakref.ref(left)
    del left
    gc.collect()
    assert seen() is None


def test_what_somebody_left_alone_stays_so() -> None:
    gc.freeze()
    count = gc.get_freeze_count()
    with building():
        pass
    assert gc.get_freeze_count() >= count - 100  # those that end meanwhile are gone


def test_loading_and_the_names_of_the_package_collect_nothing() -> None:
    code = """
import gc
seen = []
gc.callbacks.append(lambda phase, told: seen.append(told["generation"]))
import pureqwen
qwen = pureqwen.load()
assert 2 not in seen, "all of torch was looked through"
assert gc.isenabled() and gc.get_freeze_count() == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
    assert pureqwen.load is pureqwen.load


def test_a_command_that_ends_leaves_its_cycles_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pureqwen", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0 and gc.get_freeze_count() > 10_000
