"""When Python looks for cycles, and when it does not."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytest

from pureqwen import qwen
from pureqwen.garbage import building, uncollected

Block: TypeAlias = Callable[[], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    if frozen:
        gc.freeze()
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


def ran(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout


WATCHED = """
import gc
seen = []
gc.callbacks.append(lambda phase, told: seen.append(told["generation"]))
import pureqwen
"""


def test_torch_is_not_looked_through_while_a_name_of_the_package_brings_it() -> None:
    ran(
        WATCHED
        + "pureqwen.load; assert 2 not in seen and gc.isenabled() and gc.get_freeze_count() == 0, seen"
    )


def test_nothing_is_collected_while_a_model_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    collects, made = list[bool](), qwen.load_model
    monkeypatch.setattr(qwen, "load_model", lambda *a, **k: collects.append(gc.isenabled()) or made(*a, **k))
    qwen.load()
    assert collects == [False] and gc.isenabled()


def test_a_command_brings_torch_without_a_collection_of_all() -> None:
    code = """
from pureqwen.cli.options import ModelOptions
ModelOptions(model="pocket").load()
assert 2 not in seen and gc.isenabled(), seen
"""
    ran(WATCHED + code)


def test_a_command_that_ends_leaves_its_cycles_alone() -> None:
    code = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count()))  # the first, so that it is the last
sys.argv = ["pureqwen", "--version"]
from pureqwen.cli import main
main()
"""
    assert int(ran(code).split()[-1]) > 10_000
