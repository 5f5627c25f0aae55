"""Stretch: how much of a prompt goes beside answers, by what steps were seen to take."""

import threading
import time

import pytest

from pureqwen.serve.inbox import Inbox
from pureqwen.serve.stretch import Stretch


def test_the_first_answers_are_written_alone_so_that_it_is_known_what_that_takes() -> None:
    stretch = Stretch(2.0, least=16)
    assert stretch.limit == 0
    stretch.saw(writes=False, num_read=512, seconds=1.0)
    assert stretch.limit == 0
    stretch.saw(writes=True, num_read=0, seconds=0.1)
    assert stretch.limit == 512 // 10


def test_a_step_gets_as_many_tokens_of_prompts_as_double_its_time() -> None:
    stretch = Stretch(2.0, least=16)
    stretch.saw(writes=True, num_read=0, seconds=0.1)
    assert stretch.limit == 16
    stretch.saw(writes=True, num_read=100, seconds=0.2)
    assert stretch.limit == 100
    assert Stretch(2.0, least=16).limit == 0


def test_prompts_get_on_however_slow_they_are() -> None:
    stretch = Stretch(1.5, least=16)
    stretch.saw(writes=True, num_read=0, seconds=0.001)
    stretch.saw(writes=False, num_read=10, seconds=10.0)
    assert stretch.limit == 16


def test_the_newest_steps_weigh_most() -> None:
    stretch = Stretch(2.0, least=1)
    for seconds in [1.0, *[0.1] * 30]:
        stretch.saw(writes=True, num_read=0, seconds=seconds)
    assert stretch.writing == pytest.approx(0.1, rel=0.01)
    stretch.saw(writes=True, num_read=5, seconds=0.05)  # quicker than without: a clock is no ruler
    assert stretch.reading == 0 and stretch.limit == 1


def test_an_idle_inbox_waits_and_a_note_or_the_end_wakes_it() -> None:
    inbox, awake = Inbox(), threading.Event()

    def wait() -> None:
        inbox.wait(idle=True)
        awake.set()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.02)
    assert not awake.is_set()
    inbox.close(0.0)
    thread.join(10)
    assert awake.is_set()


def test_a_second_close_can_only_shorten_the_time_that_is_left() -> None:
    inbox = Inbox()
    inbox.close(100.0)
    assert inbox.wait(idle=False) and not inbox.wait(idle=True)
    inbox.close(0.0)
    assert not inbox.wait(idle=False)
    inbox.close(100.0)
    assert not inbox.wait(idle=False)
