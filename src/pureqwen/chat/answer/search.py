"""Finding the first of several strings in a text that arrives in pieces.

    needle </think>     text          a  <  /  t  h  x
                        held back     .  <  /  t  h  .     it might have become </think>
                        let through   a              </thx

Everything here that must not print half a tag or half a stop string is built on this: of the text given so
far, only the longest end that may still grow into a needle is held back. One character is one step of an
automaton (A. Aho and M. Corasick, "Efficient string matching", CACM 1975), so that the time is linear in the
text whatever the needles are, and the answer does not depend on how the text was cut: the needle that is
complete first wins, of two that end together the longer one. It does not replace, count or overlap matches.
"""

import re
from collections.abc import Iterable


class Search:
    """The needles and how much of one the text so far ends with. `find` starts afresh after each needle."""

    def __init__(self, needles: Iterable[str]) -> None:
        self._next: list[dict[str, int]] = [{}]  # node -> character -> node; a node is a needle's beginning
        self._found: list[str] = [""]  # node -> the longest needle that ends here
        self._depth = [0]  # node -> its length
        for needle in needles:
            self._add(needle)
        self._fail = self._suffixes()  # node -> the longest proper end of it that is a node
        self._first = re.compile("|".join(map(re.escape, self._next[0])) or "(?!)")
        self._node = 0
        self.held = ""  # the end of the text so far that may grow into a needle

    def find(self, text: str, at: int = 0) -> tuple[str, str | None, int]:
        """Read text from `at`: (text free of needles, the needle after it or None, where that ends)."""
        end, node = at, self._node
        while end < len(text):
            if not node:  # nothing begun: jump to what may begin a needle
                begin = self._first.search(text, end)
                if begin is None:
                    end = len(text)
                    break
                end = begin.start()
            node = self._step(node, text[end])
            end += 1
            if needle := self._found[node]:
                before = self.held + text[at:end]
                self._node, self.held = 0, ""
                return before[: -len(needle)], needle, end
        before = self.held + text[at:end]
        safe = len(before) - self._depth[node]
        self._node, self.held = node, before[safe:]
        return before[:safe], None, end

    def flush(self) -> str:
        """The text held back, now that no more comes."""
        held, self.held, self._node = self.held, "", 0
        return held

    def _step(self, node: int, character: str) -> int:
        while node and character not in self._next[node]:
            node = self._fail[node]
        return self._next[node].get(character, 0)

    def _add(self, needle: str) -> None:
        assert needle, "an empty needle is everywhere"
        node = 0
        for character in needle:
            if character not in self._next[node]:
                self._next[node][character] = len(self._next)
                self._next.append({})
                self._found.append("")
                self._depth.append(self._depth[node] + 1)
            node = self._next[node][character]
        self._found[node] = needle

    def _suffixes(self) -> list[int]:
        fail = [0] * len(self._next)
        queue = list(self._next[0].values())
        for node in queue:  # breadth first: a suffix is shorter than its node, hence ready
            self._found[node] = self._found[node] or self._found[fail[node]]
            for character, child in self._next[node].items():
                suffix = fail[node]
                while suffix and character not in self._next[suffix]:
                    suffix = fail[suffix]
                fail[child] = self._next[suffix].get(character, 0)
                queue.append(child)
        return fail
