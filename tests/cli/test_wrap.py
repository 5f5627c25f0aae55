"""Lines are broken between words while they stream."""

from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from pureqwen.cli.wrap import Wrap, wrapped

TEXT = st.text(st.sampled_from("ab \n\t你好,"), max_size=60)


def test_a_word_that_does_not_fit_stands_on_the_next_line() -> None:
    assert wrapped("the limited time by the user", 12) == "the limited\ntime by the\nuser"


@given(TEXT, st.integers(8, 30))
@example("a" * 50, 8)
def test_no_line_is_too_long_and_no_word_is_lost(text: str, width: int) -> None:
    shown = wrapped(text, width)
    assert shown.split() == text.split() or "你" in text or "好" in text
    assert "".join(shown.split()) == "".join(text.split())
    words = {line.strip() for line in shown.split("\n")}
    assert all(cell_len(line) <= width or len(line.split()) == 1 for line in words if "\t" not in line)


@given(TEXT, st.integers(8, 30))
def test_the_pieces_do_not_matter(text: str, width: int) -> None:
    wrap = Wrap(width)
    assert "".join(map(wrap.push, text)) + wrap.finish() == wrapped(text, width)


def test_words_of_scripts_without_blanks_do_not_wait_for_one() -> None:
    wrap = Wrap(20)
    assert "".join(map(wrap.push, "你好世界")) == "你好世"
