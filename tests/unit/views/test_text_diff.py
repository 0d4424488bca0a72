from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowllm.views import text_diff as module
from flowllm.views.text_diff import DiffLine, text_diff

LINES = st.lists(st.text("ab \t.é", max_size=6), max_size=12)


def shown(lines: tuple[DiffLine, ...]) -> list[str]:
    """A line each, with what differs in brackets."""
    return [
        line.sign + "".join(f"[{text}]" if differs and text else text for text, differs in line.parts) for line in lines
    ]


def test_words_within_a_line_and_its_neighbours() -> None:
    before = "head\nmid\nold\nA cat sat.\nsame\nmore\nmany\nfar\nThe end"
    after = "head\nmid\nold\nA dog sat.\nsame\nmore\nmany\nfar\nThe very end\nand more"
    assert shown(text_diff(before, after)) == [
        *(" old", "-A [cat] sat.", "+A [dog] sat.", " same", "…", " far"),
        *("-The end", "+The [very ]end", "+[and more]"),
    ]
    assert shown(text_diff("one\r\ntwo", "one\ntwo\n")) == ["-one[\r]", "+one", " two", "+"]
    assert text_diff("one", "one") == ()


def test_lines_with_little_in_common_differ_as_a_whole() -> None:
    assert shown(text_diff("all of the old words", "nothing in it is like them")) == [
        "-[all of the old words]",
        "+[nothing in it is like them]",
    ]


@given(LINES, LINES)
def test_each_side_can_be_read_in_it(before: list[str], after: list[str]) -> None:
    texts = "\n".join(before), "\n".join(after)
    lines = text_diff(*texts)
    for text, sign in zip(texts, "-+", strict=True):
        own = ["".join(part for part, _ in line.parts) for line in lines if line.sign in f" {sign}"]
        whole = iter(text.split("\n"))
        assert all(any(line == one for one in whole) for line in own)
    assert (not lines) == (texts[0] == texts[1])


def test_what_is_too_large_to_be_matched_is_told_as_a_whole() -> None:
    size = module.LARGEST + 1
    lines = text_diff("\n".join(["head", *["a", "b"] * size, "tail"]), "\n".join(["head", *["b", "a"] * size, "tail"]))
    assert [line.sign for line in lines].count("-") == 2 * size
    assert (lines[0].sign, lines[-1].sign) == (" ", " ")
