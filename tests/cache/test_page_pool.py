"""PagePool: pages are given, shared, forgotten and found again; none is lost."""

import subprocess
import sys

import pytest

from pureqwen.cache.pages import PagePool, page_key, root_key


def chain(*pages: list[int], salt: str = "") -> list[bytes]:
    keys = [root_key(salt)]
    for tokens in pages:
        keys.append(page_key(keys[-1], tokens))
    return keys[1:]


def test_allocated_pages_are_different_and_come_back() -> None:
    pool = PagePool(4, page_size=16)
    pages = pool.allocate(3)
    assert len(set(pages)) == 3 and pool.num_available == 1 and pool.num_used == 3
    pool.check([pages])
    pool.release(pages)
    pool.check()
    assert pool.num_available == 4 and pool.num_cached == 0
    with pytest.raises(AssertionError):
        pool.allocate(5)


def test_a_text_takes_a_page_for_every_tokens_begun() -> None:
    pool = PagePool(4, page_size=16)
    assert [pool.pages_for(n) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_a_key_stands_for_the_whole_text_before_it() -> None:
    """The same tokens behind other ones, or under another salt, are another page."""
    first, second = chain([1, 2], [3, 4])
    assert chain([1, 2], [3, 4]) == [first, second]
    assert chain([9, 2], [3, 4])[1] != second
    assert chain([3, 4])[0] != second
    assert not {first, second} & set(chain([1, 2], [3, 4], salt="key of another"))
    assert chain([1, 2], salt="\ud800") != chain([1, 2], salt="\ud801")  # half a character is a salt, too


def test_token_boundaries_can_not_be_moved() -> None:
    assert chain([1, 23])[0] != chain([12, 3])[0]
    assert chain([1, 2, 3])[0] != chain([1, 2], [3])[1]


def test_a_published_page_is_shared_while_it_is_held_and_after() -> None:
    pool = PagePool(3, page_size=2)
    [key] = chain([1, 2])
    pages = pool.allocate(1)
    assert pool.share(key) is None
    pool.publish(pages[0], key)
    assert pool.share(key) == pages[0]
    pool.check([pages, pages])
    pool.release(pages)
    pool.check([pages])
    pool.release(pages)
    assert pool.num_cached == 1 and pool.num_available == 3
    assert pool.find([key]) == (1, 1)
    assert pool.share(key) == pages[0]
    assert pool.find([key]) == (1, 0)
    pool.check([pages])


def test_find_counts_the_keys_from_the_first_on_as_long_as_they_are_known() -> None:
    pool = PagePool(3, page_size=2)
    keys = chain([1, 2], [3, 4], [5, 6])
    pages = pool.allocate(3)
    pool.publish(pages[0], keys[0])
    pool.publish(pages[2], keys[2])
    assert pool.find(keys) == (1, 0)
    assert pool.find([]) == (0, 0)


def test_the_page_used_longest_ago_is_forgotten_first_and_of_a_text_its_end() -> None:
    pool = PagePool(4, page_size=2)
    old, new = chain([1, 1], [2, 2]), chain([3, 3], [4, 4])
    for keys in (old, new):
        pages = pool.allocate(2)
        for page, key in zip(pages, keys, strict=True):
            pool.publish(page, key)
        pool.release(pages)
    held = [pool.share(old[0])]  # used again: now the second of the old text is the one used longest ago
    pool.release(held)
    forgotten = []
    for _ in range(4):
        pool.allocate(1)
        forgotten += [
            n for n, key in enumerate([*old, *new]) if n not in forgotten and not pool.find([key])[0]
        ]
    assert forgotten == [1, 3, 2, 0]


def test_two_pages_of_one_content_are_known_once() -> None:
    """Two requests that computed the same, neither knowing of the other: the first stays."""
    pool = PagePool(2, page_size=2)
    first, other = chain([1, 2])[0], chain([7, 7])[0]
    pages = pool.allocate(2)
    for page in pages:
        pool.publish(page, first)
    assert pool.share(first) == pages[0]
    pool.publish(pages[0], other)  # a page is never another than it was
    assert pool.share(other) is None
    pool.check([pages, pages[:1]])


def test_a_page_that_nobody_holds_can_be_neither_released_nor_published() -> None:
    pool = PagePool(2, page_size=2)
    with pytest.raises(AssertionError):
        pool.release([0])
    with pytest.raises(AssertionError):
        pool.publish(0, root_key(""))


@pytest.mark.parametrize("held", [[], [[0], [0]], [[0, 1]]])
def test_check_sees_a_leak_and_a_page_held_by_too_many(held: list[list[int]]) -> None:
    pool = PagePool(2, page_size=2)
    assert pool.allocate(1) == [0]
    pool.check([[0]])
    with pytest.raises(AssertionError, match=r"page \d leaks"):
        pool.check(held)


def test_the_pool_knows_no_torch() -> None:
    code = "import sys, pureqwen.cache.pages; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
