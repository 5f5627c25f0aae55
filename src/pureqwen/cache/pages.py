"""PagePool: which pages of the cache are free, whose they are, and what is known to stand in them.

    page   0    1    2    3    4    5    6    7       num_pages pages of page_size tokens each
            A    A B  B    .    .    -    -    A       A, B  who holds them, a common beginning both
                                                       .     free: nothing in it
                                                       -     idle: nobody holds it, but what it says is known

A full page is known by its key: a hash of the key of the page before it and of its own tokens. So a key
stands for all tokens from the start of the text on, and two texts share their pages as long as their keys
agree (Kwon et al. 2023, "PagedAttention", section 4.3; the chain as in vLLM's prefix cache). The first key
comes from a salt: requests of different salts share nothing, so neither can learn from the time it waits
what the other asked.

When pages run out, the idle one that was used longest ago is forgotten; of one text its last pages first,
since without its beginning none of it can be found. The keys are cryptographic: whoever could make two texts
of one key would read another's answer.

It knows numbers of pages, never tensors, and imports nothing but the standard library.
"""

from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from hashlib import blake2b

KEY_BYTES = 32


def root_key(salt: str) -> bytes:
    """What stands before the first page of a text; texts of different salts have no key in common."""
    return blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES, person=b"salt").digest()


def page_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full page that holds `tokens`, behind the page whose key is `parent`."""
    return blake2b(array("q", tokens).tobytes(), digest_size=KEY_BYTES, key=parent, person=b"page").digest()


class PagePool:
    """`num_pages` pages of `page_size` tokens; each is free, idle (free, but known) or held."""

    def __init__(self, num_pages: int, *, page_size: int) -> None:
        assert num_pages >= 1 and page_size >= 1
        self.num_pages, self.page_size = num_pages, page_size
        self._free = deque(range(num_pages))
        self._idle: OrderedDict[int, None] = OrderedDict()  # the one used longest ago comes first
        self._holders = [0] * num_pages
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def num_available(self) -> int:
        """Pages that `allocate` can give."""
        return len(self._free) + len(self._idle)

    @property
    def num_used(self) -> int:
        """Pages that somebody holds."""
        return self.num_pages - self.num_available

    @property
    def num_cached(self) -> int:
        """Pages that nobody holds, and whose content is known."""
        return len(self._idle)

    def pages_for(self, num_tokens: int) -> int:
        """How many pages a text of so many tokens takes."""
        return -(-num_tokens // self.page_size)

    def allocate(self, count: int) -> list[int]:
        """Pages with nothing in them, held once; idle ones are forgotten for it. At most `num_available`."""
        assert 0 <= count <= self.num_available
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            page = self._free.popleft()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._key_of.pop(page)]
        self._holders[page] = 1
        return page

    def find(self, keys: Iterable[bytes]) -> tuple[int, int]:
        """How many of these keys, from the first on, stand for a page; and how many of those are idle."""
        known = idle = 0
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            known += 1
            idle += page in self._idle
        return known, idle

    def share(self, key: bytes) -> int | None:
        """The page that holds what this key stands for, held once more; None where there is none."""
        page = self._page_of.get(key)
        if page is not None:
            self._idle.pop(page, None)
            self._holders[page] += 1
        return page

    def publish(self, page: int, key: bytes) -> None:
        """This page, held by the caller and never again written to, holds what the key stands for.

        Where another page is known by the key already, or this one by a key, it stays as it was.
        """
        assert self._holders[page] > 0
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key], self._key_of[page] = page, key

    def release(self, pages: Sequence[int]) -> None:
        """One holder of these pages, in the order of its text, lets go of them."""
        for page in reversed(pages):
            assert self._holders[page] > 0
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if page in self._key_of:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def check(self, held: Iterable[Sequence[int]] = ()) -> None:
        """AssertionError unless every page is in one place, and held by just those whose pages are given."""
        counts = Counter(page for pages in held for page in pages)
        free, idle = set(self._free), set(self._idle)
        assert len(free) == len(self._free), "a page is free twice"
        assert not free & idle, "a page is both free and idle"
        for page in range(self.num_pages):
            assert self._holders[page] == counts[page], f"page {page} leaks or is held too often"
            assert (page in free | idle) == (counts[page] == 0), f"page {page} is lost"
        assert not any(page in self._key_of for page in free), "a free page is known"
        assert all(page in self._key_of for page in idle), "an idle page is not known"
        assert {key: page for page, key in self._key_of.items()} == self._page_of, "keys and pages disagree"
