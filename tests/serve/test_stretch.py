"""Stretch: how much of a prompt goes beside answers, by what steps were seen to take."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pureqwen.serve.inbox import Inbox
from pureqwen.serve.stretch import Stretch


def test_the_first_answers_are_written_alone_so_that_it_is_known_what_that_takes() -> None:
    stretch = Stretch(2.0, least=4, most=512)
    assert stretch.limit == 0
    stretch.saw(writes=False, num_read=512, seconds=1.0)
    assert stretch.limit == 0
    stretch.saw(writes=True, num_read=0, seconds=0.1)
    assert stretch.limit == 4


def steps(stretch: Stretch, cost: Callable[[int, int], float], count: int) -> Iterator[float]:
    """Seconds of steps of answers, which take 1 alone, beside a prompt: cost(tokens, read before)."""
    stretch.saw(writes=True, num_read=0, seconds=1.0)
    read = 0
    for _ in range(count):
        size = stretch.limit
        seconds = 1.0 + (cost(size, read) if size else 0.0)
        stretch.saw(writes=True, num_read=size, seconds=seconds)
        read += size
        yield seconds


@pytest.mark.parametrize(
    "cost",
    [
        lambda n, read: n / 50,
        lambda n, read: 0.5 + n / 100,  # every piece costs something
        lambda n, read: n / 50 * (1 + read / 1000),  # what was read is read again by attention
        lambda n, read: n / 5 if n < 12 else n / 60,  # small pieces are read by other code
    ],
)
def test_steps_beside_a_prompt_take_less_than_three_times_as_long(cost: Callable[[int, int], float]) -> None:
    found = list(steps(Stretch(2.0, least=4, most=512), cost, 200))
    assert max(found) < 3.0
    assert sum(found[100:]) / 100 > 1.5, "and a prompt gets what time there is"


def test_prompts_get_on_however_slow_they_are_and_take_at_most_what_a_step_may_have() -> None:
    slow, quick = Stretch(1.5, least=4, most=512), Stretch(1.5, least=4, most=512)
    assert len(list(steps(slow, lambda n, read: 100.0, 60))) == 60 and slow.limit == 4
    assert len(list(steps(quick, lambda n, read: 0.0, 60))) == 60 and quick.limit == 512


def test_the_rest_of_a_prompt_does_not_show_that_more_would_fit() -> None:
    stretch = Stretch(2.0, least=8, most=512)
    stretch.saw(writes=True, num_read=0, seconds=1.0)
    for _ in range(12):
        stretch.saw(writes=True, num_read=1, seconds=1.0)
    assert stretch.limit == 8


@pytest.mark.parametrize(("before", "now"), [(1.0, 5.0), (5.0, 1.0)])
def test_what_answers_take_is_known_anew_when_their_number_changes_in_an_endless_flow_of_prompts(
    before: float, now: float
) -> None:
    """It was once seen only in steps without prompts. When one answer had become thirty, which took longer
    than a step might, every piece shrank to the least, for ever; and the other way round one answer waited
    as long as thirty had.
    """
    stretch = Stretch(2.0, least=4, most=512)
    stretch.saw(writes=True, num_read=0, seconds=before)
    stretch._size = 100.0
    pieces, alone, took = list[int](), 0, 0.0
    for _ in range(300):
        size = stretch.limit
        took = now + size / 50
        stretch.saw(writes=True, num_read=size, seconds=took)
        pieces.append(size)
        alone += not size
    assert 0.4 * 50 * now < min(filter(None, pieces[-50:])), "prompts starve"
    assert max(pieces[-50:]) < 1.4 * 50 * now, "answers wait"
    assert alone == 300 // 17, "and prompts wait no longer for it than they must"


def test_long_prompts_do_not_wait_until_no_short_one_comes() -> None:
    stretch = Stretch(2.0, least=4, most=512)
    stretch.saw(writes=True, num_read=0, seconds=1.0)
    while stretch.limit:
        stretch.saw(writes=True, num_read=4, seconds=1.0)
    size, writing = stretch._size, stretch.writing
    stretch.saw(writes=True, num_read=300, num_short=300, seconds=9.0)
    assert stretch.limit == int(size) > 4
    assert (stretch._size, stretch.writing) == (size, writing)


def test_the_newest_steps_weigh_most() -> None:
    stretch = Stretch(2.0, least=1, most=512)
    for seconds in [1.0, *[0.1] * 30]:
        stretch.saw(writes=True, num_read=0, seconds=seconds)
    assert stretch.writing == pytest.approx(0.1, rel=0.01)


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
