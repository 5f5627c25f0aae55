"""Breaking lines between words while they are still being written: a terminal would break within words.

A word is held back until a blank ends it, and then stands on this line or on the next. Characters of scripts
without blanks are words by themselves. A word longer than a line is left to the terminal.
"""

import re

from rich.cells import cell_len

PIECES = re.compile(r"\n|[ \t]+|[\u2e80-\uffef]|[^\s\u2e80-\uffef]+|\s")


class Wrap:
    """Text in, the same text out, in lines of at most `width` columns."""

    def __init__(self, width: int) -> None:
        self.width = max(width, 1)
        self.column = 0
        self.word = self.blank = ""  # not written yet: a word, and the blanks before it

    def push(self, text: str) -> str:
        """What can be written now."""
        out = []
        for piece in PIECES.findall(text):
            if piece.isspace():
                out.append(self.end_word())
                self.blank += piece if piece != "\n" else ""
                if piece == "\n":
                    out.append(self.blank + piece)
                    self.column, self.blank = 0, ""
            else:
                if cell_len(piece[0]) > 1:
                    out.append(self.end_word())
                self.word += piece
        return "".join(out)

    def finish(self) -> str:
        """The last word, and the blanks behind it."""
        out = self.end_word() + self.blank
        self.blank = ""
        return out

    def end_word(self) -> str:
        if not self.word:
            return ""
        before, word = self.blank, self.word
        self.blank = self.word = ""
        if self.column and self.column + len(before) + cell_len(word) > self.width:
            before, self.column = "\n", 0
        self.column += len(before.strip("\n")) + cell_len(word)
        return before + word


def wrapped(text: str, width: int) -> str:
    """A whole text, broken between words."""
    wrap = Wrap(width)
    return wrap.push(text) + wrap.finish()
